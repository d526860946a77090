//! The daemon's flags, made from the table of keys.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use clap::{Arg, ArgMatches, Command, FromArgMatches};

use crate::keys::{KEYS, Key};

const CONFIG: &str = "config";
const FORM_HEADING: &str = "Configuration (see docs/configuration.md)";

/// What the command line says about the configuration. Flatten it into the daemon's
/// arguments with `#[command(flatten)]`. Secrets have no flag.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DaemonFlags {
    /// `--config FILE`: another file than `/etc/hearth/config`. It must be there.
    pub config: Option<Utf8PathBuf>,
    /// Values by key.
    pub values: BTreeMap<&'static str, String>,
}

fn argument(key: &Key) -> Arg {
    let doc = key.doc.trim().replace('\n', "");
    let help = match key.default {
        "" => format!("{doc} ({})", key.form),
        default => format!("{doc} ({}) [default: {default}]", key.form),
    };
    Arg::new(key.name)
        .long(key.flag())
        .value_name(key.kind.to_ascii_uppercase())
        .help(help)
        .help_heading(FORM_HEADING)
}

impl clap::Args for DaemonFlags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(Utf8PathBuf))
            .help("Read this file instead of /etc/hearth/config");
        command
            .arg(config)
            .args(KEYS.iter().filter(|key| !key.secret).map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for DaemonFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &&Key| {
            let value = matches.get_one::<String>(key.name)?;
            Some((key.name, value.clone()))
        };
        Ok(Self {
            config: matches.get_one(CONFIG).cloned(),
            values: KEYS
                .iter()
                .filter(|key| !key.secret)
                .filter_map(|key| given(&key))
                .collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let new = Self::from_arg_matches(matches)?;
        self.config = new.config.or(self.config.take());
        self.values.extend(new.values);
        Ok(())
    }
}
