//! Pressure stall information: how much of the time tasks wait for what the host is short of.

use std::io;

/// What a host can be short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Disks.
    Io,
}

impl Resource {
    const fn path(self) -> &'static str {
        match self {
            Self::Cpu => "/proc/pressure/cpu",
            Self::Memory => "/proc/pressure/memory",
            Self::Io => "/proc/pressure/io",
        }
    }
}

/// Percent of the last ten seconds in which some task waited for it, rounded down
/// (Documentation/accounting/psi.rst, `some avg10`).
///
/// # Errors
/// When the kernel does not say: it was built or booted without PSI.
pub fn some_avg10(resource: Resource) -> io::Result<u32> {
    avg10(resource, "some ")
}

/// The same of the time in which all tasks that were not idle waited for it (`full avg10`).
///
/// # Errors
/// As [`some_avg10`].
pub fn full_avg10(resource: Resource) -> io::Result<u32> {
    avg10(resource, "full ")
}

fn avg10(resource: Resource, line: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(resource.path())?;
    parse(&text, line).ok_or_else(|| {
        let path = resource.path();
        io::Error::new(io::ErrorKind::InvalidData, format!("{path} has no average"))
    })
}

fn parse(text: &str, kind: &str) -> Option<u32> {
    let line = text.lines().find(|line| line.starts_with(kind))?;
    let value = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    value.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_percent_of_some() {
        let text = "some avg10=12.94 avg60=1.00 avg300=0.10 total=1\n\
                    full avg10=99.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(parse(text, "some "), Some(12));
        assert_eq!(parse(text, "full "), Some(99));
        for bad in [
            "",
            "full avg10=1.00\n",
            "some avg60=1.00\n",
            "some avg10=x\n",
        ] {
            assert_eq!(parse(bad, "some "), None, "{bad:?}");
        }
    }
}
