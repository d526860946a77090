//! `docs/configuration.md` and the file that packages install, from the table of keys.

use std::fmt::Write;

use crate::keys::{KEYS, Key};

const HEAD: &str = "\
# Configuration of hearthd

<!-- Generated from the table of keys in hearth-config; a test compares. To renew it:
     HEARTH_UPDATE=1 cargo test -p hearth-config -->

Each key has a default. It is overridden by, each one over the one before:

1. the file `/etc/hearth/config`, or the one that `--config FILE` or the environment variable
   `HEARTH_CONFIG` names,
2. the environment variable `HEARTH_<KEY>`,
3. the flag `--<key>` with dashes for underscores (secrets have none: command lines are for
   everyone to read).

An empty value means the default. `hearthd check-config` says everything that is wrong, and
`hearth config show` says every value in force with where it came from.

The file has the form of systemd's `EnvironmentFile=`: one `KEY=value` per line, comments on
lines of their own that begin with `#` or `;`, values plain or in single or double quotation
marks. Unknown keys are refused. If it holds `API_TOKEN`, only root should be able to read it.

```sh
# /etc/hearth/config
DATA_DIR=/srv/hearth
SUBNET=10.99.0.0/20
API_PORT=7070
API_TOKEN_FILE=/etc/hearth/token
```

Sizes are whole numbers with `KiB`, `MiB`, `GiB` or `TiB`; durations with `ms`, `s`, `m` or `h`.

## All keys

| Key | Default | Type |
| --- | --- | --- |
";

/// The whole document.
#[must_use]
pub fn docs() -> String {
    let mut text = HEAD.to_owned();
    for key in KEYS {
        let anchor = key.name.to_ascii_lowercase();
        // Writing to a String cannot fail.
        let _written = writeln!(
            text,
            "| [`{}`](#{anchor}) | {} | {} |",
            key.name,
            default(key),
            key.kind
        );
    }
    for key in KEYS {
        let _written = write!(text, "\n{}", section(key));
    }
    text
}

const FILE_HEAD: &str = "\
# Configuration of hearthd; generated from its table of keys. Every key is here with its
# default. After a change: hearthd check-config && systemctl restart hearthd
# (VMs are not touched by that).
#
# One KEY=value per line, as systemd's EnvironmentFile= has it. Unknown keys are refused.
# \"hearth config show\" says every value in force and where it came from.
";

/// The file `/etc/hearth/config` as packages install it: every key, commented out.
#[must_use]
pub fn default_file() -> String {
    let run_dir = KEYS.iter().find(|key| key.name == "RUN_DIR");
    let run_dir = run_dir.map_or("", |key| key.default);
    let mut text = FILE_HEAD.to_owned();
    for key in KEYS {
        text.push('\n');
        for line in key.doc.lines() {
            // Writing to a String cannot fail.
            let _written = writeln!(text, "# {}", line.trim());
        }
        let default = key.default.replace("<RUN_DIR>", run_dir);
        let _written = writeln!(text, "# ({})\n#{}={default}", key.form, key.name);
    }
    text
}

fn default(key: &Key) -> String {
    match key.default {
        "" => "unset".to_owned(),
        default => format!("`{default}`"),
    }
}

fn section(key: &Key) -> String {
    let doc: Vec<_> = key.doc.lines().map(str::trim).collect();
    let flag = if key.secret {
        "none".to_owned()
    } else {
        format!("`--{}`", key.flag())
    };
    format!(
        "### {}\n\n{}\n\n- Default: {}\n- Accepted: {}\n- Environment: `{}`; flag: {flag}\n",
        key.name,
        doc.join("\n"),
        default(key),
        key.form,
        key.variable(),
    )
}
