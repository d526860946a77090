//! Loading: files, the checks between keys, and all errors at once.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::api::ConfigEntry;

use crate::error::ConfigError;
use crate::flags::DaemonFlags;
use crate::keys::{Config, KEYS, build};
use crate::kinds;
use crate::resolve::Values;

/// The file that is read unless a flag or `HEARTH_CONFIG` names another. It may be absent.
pub const DEFAULT_FILE: &str = "/etc/hearth/config";

/// A file longer than this is no configuration.
const MAX_FILE: u64 = 1 << 20;

/// A configuration with what is worth knowing about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every key with its value for people and where it came from; secrets as `(set)`.
    pub entries: Vec<ConfigEntry>,
    /// What is allowed but unwise, for the log.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the configuration: defaults, then the file, then `HEARTH_<KEY>` from `env`,
    /// then flags. After it, [`Config::api_token`] is set whenever [`Config::api_port`] is.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        flags: &DaemonFlags,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Loaded, Vec<ConfigError>> {
        let named = flags
            .config
            .clone()
            .or_else(|| env("HEARTH_CONFIG").map(Utf8PathBuf::from));
        let path = named
            .clone()
            .unwrap_or_else(|| Utf8PathBuf::from(DEFAULT_FILE));
        let mut warnings = Vec::new();
        let file = match read_file(&path) {
            Ok(text) => Some(text),
            Err(ConfigError::File { source, .. })
                if source.kind() == ErrorKind::NotFound && named.is_none() =>
            {
                None
            }
            Err(error) => return Err(vec![error]),
        };
        let mut values = Values::collect(
            file.as_deref().map(|text| (path.as_path(), text)),
            env,
            flags,
        );
        let config = build(&mut values);
        let config = config.and_then(|config| {
            check_together(&config, &mut values.errors);
            with_token(config, &mut values.errors, &mut warnings)
        });
        let secrets = KEYS.iter().filter(|key| key.secret);
        let files = secrets.filter_map(|key| match values.source(key.name) {
            crate::Source::File { path, .. } => Some(path),
            _ => None,
        });
        for path in files.collect::<std::collections::BTreeSet<_>>() {
            warn_if_readable_by_others(&path, &mut warnings);
        }
        match config {
            Some(config) if values.errors.is_empty() => Ok(Loaded {
                config,
                entries: values.entries(),
                warnings,
            }),
            _ => Err(values.errors),
        }
    }
}

/// `hearthd check-config`: the verdict as text, `Err` if the daemon would not start.
///
/// # Errors
/// One line per thing that is wrong.
pub fn check_config(
    flags: &DaemonFlags,
    env: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    match Config::load(flags, env) {
        Ok(loaded) => {
            let mut text: String = loaded
                .warnings
                .iter()
                .map(|warning| format!("warning: {warning}\n"))
                .collect();
            text.push_str("configuration is valid\n");
            Ok(text)
        }
        Err(errors) => Err(errors
            .iter()
            .map(|error| format!("error: {}\n", hearth_types::survey::chain(error)))
            .collect()),
    }
}

fn read_file(path: &Utf8Path) -> Result<String, ConfigError> {
    let read = || {
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        file.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(std::io::Error::other("it is longer than 1 MiB"));
        }
        Ok(text)
    };
    read().map_err(|source| ConfigError::File {
        path: path.to_owned(),
        source,
    })
}

fn check_together(config: &Config, errors: &mut Vec<ConfigError>) {
    let mut conflict = |text: String| errors.push(ConfigError::Conflict(text));
    if config.backoff_first > config.backoff_max {
        conflict(format!(
            "BACKOFF_FIRST is {} and BACKOFF_MAX is {}: the first wait cannot be longer than the longest",
            config.backoff_first, config.backoff_max
        ));
    }
    if config.breaker_cooldown > config.breaker_cooldown_max {
        conflict(format!(
            "BREAKER_COOLDOWN is {} and BREAKER_COOLDOWN_MAX is {}: the first wait cannot be longer than the longest",
            config.breaker_cooldown, config.breaker_cooldown_max
        ));
    }
    if config.uid_base.checked_add(config.uid_count).is_none() {
        conflict(format!(
            "UID_BASE is {} and UID_COUNT is {}: together they go past the last user id, 4294967294",
            config.uid_base, config.uid_count
        ));
    }
    if config.api_port.is_some() && config.api_token.is_none() && config.api_token_file.is_none() {
        conflict(format!(
            "API_PORT is set without a token: set API_TOKEN or API_TOKEN_FILE ({} characters or more), or leave API_PORT out",
            kinds::MIN_TOKEN
        ));
    }
    if config.api_token.is_some() && config.api_token_file.is_some() {
        conflict("API_TOKEN and API_TOKEN_FILE are both set: leave one out".to_owned());
    }
    if config.metrics_token.is_some() && config.api_port.is_none() {
        conflict("METRICS_TOKEN is set without API_PORT: it is for TCP alone".to_owned());
    }
}

/// Takes the token from its file, if it is to come from there.
fn with_token(
    config: Config,
    errors: &mut Vec<ConfigError>,
    warnings: &mut Vec<String>,
) -> Option<Config> {
    let Some(path) = config.api_token_file.clone() else {
        return Some(config);
    };
    let text = match read_file(&path) {
        Ok(text) => text,
        Err(error) => {
            errors.push(error);
            return None;
        }
    };
    warn_if_readable_by_others(&path, warnings);
    let Some(token) = kinds::token(text.trim_end_matches(['\n', '\r'])) else {
        errors.push(ConfigError::Conflict(format!(
            "API_TOKEN_FILE {path} does not hold a token: expected {} as its only line",
            kinds::TOKEN.form
        )));
        return None;
    };
    Some(Config {
        api_token: Some(token),
        ..config
    })
}

fn warn_if_readable_by_others(path: &Utf8Path, warnings: &mut Vec<String>) {
    let Ok(meta) = std::fs::metadata(path) else {
        return;
    };
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o004 != 0 {
        warnings.push(format!(
            "{path} holds a token and every user may read it (mode {mode:04o}): chmod 0640 {path}"
        ));
    }
}
