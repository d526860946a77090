//! What a module says about itself in its `.modinfo` section.

use super::{WHAT, normal};
use crate::elf::Elf;
use crate::format::FormatError;

/// What a module says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// Modules that must be there first.
    pub depends: Vec<String>,
    /// Modules or aliases that should be there first, if they exist.
    pub soft_before: Vec<String>,
    /// Other names it answers to.
    pub aliases: Vec<String>,
}

impl ModInfo {
    /// Reads the `.modinfo` section: `key=value` strings, each ended by NUL.
    ///
    /// # Errors
    /// Not a module.
    pub fn read(module: &[u8]) -> Result<Self, FormatError> {
        let elf = Elf::parse(module)?;
        if !elf.is_object() {
            return Err(FormatError::damaged(WHAT, "it is not an object file"));
        }
        let section = elf
            .section(".modinfo")?
            .ok_or_else(|| FormatError::damaged(WHAT, "it has no .modinfo section"))?;
        let mut info = Self::default();
        for line in section.split(|byte| *byte == 0) {
            let Ok(line) = std::str::from_utf8(line) else {
                continue;
            };
            match line.split_once('=') {
                Some(("depends", list)) => info.depends.extend(
                    list.split(',')
                        .map(str::trim)
                        .filter(|name| !name.is_empty())
                        .map(normal),
                ),
                Some(("softdep", text)) => info.soft_before.extend(soft_before(text)),
                Some(("alias", alias)) => info.aliases.push(alias.to_owned()),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// The `pre:` names of `softdep=pre: a b post: c`.
fn soft_before(text: &str) -> Vec<String> {
    let mut before = false;
    let mut names = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "pre:" => before = true,
            "post:" => before = false,
            name if before => names.push(normal(name)),
            _ => {}
        }
    }
    names
}
