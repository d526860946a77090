use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, FromArgMatches};
use hearth_types::units::{Bytes, Span};

use super::*;
use crate::load::Loaded;

/// A configuration file in a folder of its own.
struct File {
    dir: tempfile::TempDir,
    path: Utf8PathBuf,
}

fn file(text: &str) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::try_from(dir.path().join("config")).unwrap();
    std::fs::write(&path, text).unwrap();
    File { dir, path }
}

fn flags(path: &Utf8Path, args: &[&str]) -> DaemonFlags {
    let command = DaemonFlags::augment_args(clap::Command::new("hearthd"));
    let args = ["hearthd", "--config", path.as_str()]
        .into_iter()
        .chain(args.iter().copied());
    DaemonFlags::from_arg_matches(&command.get_matches_from(args)).unwrap()
}

fn load(text: &str, env: &[(&str, &str)], args: &[&str]) -> Result<Loaded, Vec<String>> {
    let file = file(text);
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    let flags = flags(&file.path, args);
    let loaded = Config::load(&flags, |name| env.get(name).map(|v| (*v).to_owned()));
    loaded.map_err(|errors| {
        errors
            .iter()
            .map(|e| e.to_string().replace(file.path.as_str(), "FILE"))
            .collect()
    })
}

fn errors(text: &str) -> Vec<String> {
    load(text, &[], &[]).unwrap_err()
}

fn source_of(loaded: &Loaded, key: &str) -> (String, String) {
    let entry = loaded.entries.iter().find(|e| e.key == key).unwrap();
    let source = entry.source.split('/').next_back().unwrap();
    (entry.value.clone(), source.to_owned())
}

#[test]
fn every_default_is_valid() {
    let loaded = load("", &[], &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.socket, "/run/hearth/hearthd.sock");
    assert_eq!(config.socket_mode, 0o660);
    assert_eq!(config.api_port, None);
    assert_eq!(config.console_log_max, Bytes::mib(8));
    assert_eq!(config.backoff_max, Span::secs(300));
    assert!(loaded.entries.iter().all(|entry| entry.source == "default"));
    assert_eq!(loaded.entries.len(), KEYS.len());
}

#[test]
fn the_seeds_names_work_as_they_stand() {
    let text = "API_PORT=7070\nAPI_TOKEN=\"0123456789abcdef\"\nDATA_DIR=/srv/h\n\
                KERNEL_PATH=/boot/vmlinuz\nBASE_DOMAIN=vm.example.org\n";
    let config = load(text, &[], &[]).unwrap().config;
    assert_eq!(config.api_port, Some(7070));
    assert_eq!(config.api_token.unwrap().expose(), "0123456789abcdef");
    assert_eq!(config.data_dir, "/srv/h");
    assert_eq!(config.kernel_path.unwrap(), "/boot/vmlinuz");
    assert_eq!(config.base_domain, "vm.example.org");
}

#[test]
fn later_sources_win_and_are_named() {
    let text = "LOG=warn\nLOG=error\nORPHAN_CAP=1\nORPHAN_GRACE=1s\nRUN_DIR=/run/x\n";
    let env = [("HEARTH_ORPHAN_CAP", "2"), ("HEARTH_ORPHAN_GRACE", "2s")];
    let loaded = load(text, &env, &["--orphan-grace", "3s"]).unwrap();
    let pair = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(source_of(&loaded, "LOG"), pair("error", "config:2"));
    assert_eq!(
        source_of(&loaded, "ORPHAN_CAP"),
        pair("2", "environment HEARTH_ORPHAN_CAP")
    );
    assert_eq!(
        source_of(&loaded, "ORPHAN_GRACE"),
        pair("3s", "flag --orphan-grace")
    );
    assert_eq!(loaded.config.orphan_grace, Span::secs(3));
    assert_eq!(loaded.config.socket, "/run/x/hearthd.sock");
    assert_eq!(source_of(&loaded, "KVM"), pair("auto", "default"));
}

#[test]
fn an_empty_value_means_the_default() {
    let text = "API_PORT=70\nAPI_TOKEN=0123456789abcdef\nLOG=\n";
    let loaded = load(text, &[("HEARTH_API_PORT", "")], &[]).unwrap();
    assert_eq!(loaded.config.api_port, None);
    assert_eq!(loaded.config.log, "info");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = "DATA_DRI=/x\nSUBNET=10.0.0.1/16\nAPI_PORT=0\nnonsense\nORPHAN_TAPS=kill\nFOO=1\n";
    let found = load(text, &[("HEARTH_KVM", "on")], &["--log-format", "xml"]).unwrap_err();
    assert_eq!(
        found,
        [
            "FILE:1: there is no key DATA_DRI; did you mean DATA_DIR?",
            "FILE:4: there is no '=': expected KEY=value",
            "FILE:6: there is no key FOO",
            "API_PORT (file FILE:3) is \"0\": expected a number from 1 to 65535",
            "SUBNET (file FILE:2) is \"10.0.0.1/16\": expected an IPv4 network of /8 to /29 with no host bits set, such as 10.213.0.0/16",
            "KVM (environment HEARTH_KVM) is \"on\": expected auto or off",
            "ORPHAN_TAPS (file FILE:5) is \"kill\": expected remove or report",
            "LOG_FORMAT (flag --log-format) is \"xml\": expected text or json",
        ]
    );
}

#[test]
fn wrong_values_are_refused_for_each_kind() {
    for line in [
        "DATA_DIR=relative",
        "DATA_DIR=/a/../b",
        "SOCKET_MODE=0777",
        "SOCKET_MODE=rw",
        "SOCKET_MODE=+66",
        "SOCKET_GROUP='a b'",
        "API_PORT=65536",
        "API_PORT=+80",
        "API_ADDRESS=localhost",
        "BASE_DOMAIN=Upper.case",
        "BASE_DOMAIN=a..b",
        "BASE_DOMAIN=-a",
        "BRIDGE=much-too-long-a-name",
        "BRIDGE='a/b'",
        "SUBNET=10.0.0.0/30",
        "SUBNET=10.0.0.0/7",
        "SUBNET=fd00::/64",
        "NFT_TABLE=1x",
        "NFT_TABLE='x; flush ruleset'",
        "UID_BASE=7",
        "UID_BASE=4294967295",
        "UID_COUNT=0",
        "CONSOLE_LOG_MAX=1KiB",
        "CONSOLE_LOG_MAX=8",
        "ORPHAN_GRACE=30",
        "RESYNC_INTERVAL=0s",
        "IMAGE_MAX_ENTRIES=0",
        "IMAGE_MAX_DEPTH=256",
        "PULL_CONCURRENCY=65",
        "S3_ENDPOINT=storage.example.com",
        "S3_ENDPOINT=https://me:secret@storage.example.com",
        "S3_REGION=eu west",
        "LOG=loud",
        "LOG='info,a b=debug'",
    ] {
        let found = errors(line);
        assert_eq!(found.len(), 1, "{line}: {found:?}");
        let key = line.split('=').next().unwrap();
        assert!(
            found[0].starts_with(&format!("{key} (file FILE:1) is ")),
            "{found:?}"
        );
    }
    let long = format!("SOCKET=/{}", "x".repeat(107));
    assert_eq!(errors(&long).len(), 1);
}

#[test]
fn values_must_go_together() {
    for (text, part) in [
        ("BACKOFF_FIRST=10m", "BACKOFF_MAX is 5m"),
        ("BREAKER_COOLDOWN=2h", "BREAKER_COOLDOWN_MAX is 1h"),
        ("BREAKER_FAILURES=17", "a number from 0 to 16"),
        ("UID_BASE=4294967000", "past the last user id"),
        ("API_PORT=80", "without a token"),
        ("METRICS_TOKEN=0123456789abcdef", "without API_PORT"),
        (
            "API_TOKEN=0123456789abcdef\nAPI_TOKEN_FILE=/dev/null",
            "are both set",
        ),
        ("API_TOKEN_FILE=/dev/null", "cannot read /dev/null"),
        ("API_TOKEN_FILE=/nonexistent", "cannot read /nonexistent"),
    ] {
        let found = errors(text);
        assert!(found.iter().any(|e| e.contains(part)), "{text}: {found:?}");
    }
}

#[test]
fn secrets_are_shown_nowhere() {
    let refused = errors("API_TOKEN=hunter2");
    assert_eq!(
        refused,
        [
            "API_TOKEN (file FILE:1) is a secret of 7 characters: expected 16 to 1024 printable ASCII characters without spaces"
        ]
    );
    let loaded = load("API_TOKEN=0123456789abcdef", &[], &[]).unwrap();
    assert_eq!(source_of(&loaded, "API_TOKEN").0, "(set)");
    assert!(!format!("{loaded:?}").contains("0123456789abcdef"));
    let command = DaemonFlags::augment_args(clap::Command::new("hearthd"));
    assert!(
        command
            .get_arguments()
            .all(|a| a.get_long() != Some("api-token"))
    );
}

#[test]
fn a_token_comes_from_its_file_and_its_file_is_looked_at() {
    use std::os::unix::fs::PermissionsExt;
    let token = file("fedcba9876543210\n");
    let mode = |mode| {
        std::fs::set_permissions(&token.path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let text = format!("API_PORT=80\nAPI_TOKEN_FILE={}\n", token.path);
    mode(0o644);
    let loaded = load(&text, &[], &[]).unwrap();
    assert_eq!(
        loaded.config.api_token.unwrap().expose(),
        "fedcba9876543210"
    );
    assert!(
        loaded.warnings[0].contains("(mode 0644)"),
        "{:?}",
        loaded.warnings
    );
    mode(0o640);
    assert!(load(&text, &[], &[]).unwrap().warnings.is_empty());
    std::fs::write(&token.path, "two words of a token\n").unwrap();
    assert!(errors(&text)[0].contains("does not hold a token"));
    drop(token.dir);

    let open = file("API_TOKEN=0123456789abcdef\n");
    std::fs::set_permissions(&open.path, std::fs::Permissions::from_mode(0o604)).unwrap();
    let loaded = Config::load(&flags(&open.path, &[]), |_| None).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn a_named_file_must_be_there() {
    let missing = flags(Utf8Path::new("/nonexistent/config"), &[]);
    let text = check_config(&missing, |_| None).unwrap_err();
    assert_eq!(
        text,
        "error: cannot read /nonexistent/config: No such file or directory (os error 2)\n"
    );
    let by_variable = Config::load(&DaemonFlags::default(), |name| {
        (name == "HEARTH_CONFIG").then(|| "/nonexistent".to_owned())
    });
    assert!(matches!(
        by_variable.unwrap_err()[0],
        ConfigError::File { .. }
    ));
    let valid = file("");
    assert_eq!(
        check_config(&flags(&valid.path, &[]), |_| None).unwrap(),
        "configuration is valid\n"
    );
}

#[test]
fn the_flags_are_well_formed() {
    DaemonFlags::augment_args(clap::Command::new("hearthd")).debug_assert();
}

#[test]
fn the_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("HEARTH_UPDATE").is_some() {
        std::fs::write(path, docs()).unwrap();
    }
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        checked_in == docs(),
        "docs/configuration.md is stale: HEARTH_UPDATE=1 cargo test -p hearth-config"
    );
}

/// What packages install changes nothing, and each of its lines may be switched on as it is.
#[test]
fn the_default_file_says_the_defaults() {
    let untouched = load(&default_file(), &[], &[]).unwrap();
    assert_eq!(untouched.config, load("", &[], &[]).unwrap().config);
    let is_key = |line: &str| {
        line.strip_prefix('#').and_then(|line| {
            let (key, _) = line.split_once('=')?;
            KEYS.iter()
                .any(|known| known.name == key)
                .then_some(line.to_owned())
        })
    };
    let lines: Vec<_> = default_file().lines().filter_map(is_key).collect();
    assert_eq!(lines.len(), KEYS.len());
    let switched_on = load(&lines.join("\n"), &[], &[]).unwrap();
    assert_eq!(switched_on.config, untouched.config);
}
