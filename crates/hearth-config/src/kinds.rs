//! Kinds of values: how each is read, and what is accepted, in words.

use std::fmt;
use std::net::IpAddr;

use camino::Utf8PathBuf;
use hearth_types::gc::GcKind;
use hearth_types::spec::BootstrapPolicy;
use hearth_types::units::{Bytes, MIB, Span};
use ipnet::Ipv4Net;

/// How values of one kind are read.
#[derive(Debug)]
pub(crate) struct Kind<T> {
    /// A word or two for the documentation.
    pub(crate) name: &'static str,
    /// The accepted form.
    pub(crate) form: &'static str,
    pub(crate) secret: bool,
    /// Reads the text; gets the empty text when nothing is set and there is no default.
    pub(crate) parse: fn(&str) -> Option<T>,
}

const fn kind<T>(name: &'static str, form: &'static str, parse: fn(&str) -> Option<T>) -> Kind<T> {
    Kind {
        name,
        form,
        secret: false,
        parse,
    }
}

/// The shortest token: 16 characters of base64 or hexadecimal are at least 64 bits.
pub(crate) const MIN_TOKEN: usize = 16;
/// The longest token: an HTTP header of a few KiB passes everywhere.
const MAX_TOKEN: usize = 1024;
/// `sockaddr_un.sun_path` holds 108 bytes, the last one a NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// `IFNAMSIZ` is 16, the last one a NUL (netdevice(7)).
const MAX_INTERFACE: usize = 15;

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for the one place that compares it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(set)")
    }
}

/// What `auto` means as a VM's driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultDriver {
    /// QEMU.
    Qemu,
    /// Firecracker.
    Firecracker,
}

/// Where new volumes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// As files.
    Files,
    /// In the pool.
    Thin,
    /// In the pool where the host can have one.
    Auto,
}

/// Whether KVM may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelMode {
    /// If a guest really boots with it.
    Auto,
    /// Never.
    Off,
}

/// What happens to orphans of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanMode {
    /// They are removed.
    Remove,
    /// Those that the journal knows are removed, the others are reported.
    Proven,
    /// They are only reported.
    Report,
}

/// How much of a file system is kept free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskReserve {
    /// So many bytes.
    Bytes(Bytes),
    /// So many percent of its size.
    Percent(u8),
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

pub(crate) static PATH: Kind<Utf8PathBuf> =
    kind("path", "an absolute path without '..'", absolute_path);
pub(crate) static OPTIONAL_PATH: Kind<Option<Utf8PathBuf>> =
    kind("path", "an absolute path without '..'", |text| {
        optional(text, absolute_path)
    });
pub(crate) static SOCKET_PATH: Kind<Utf8PathBuf> = kind(
    "path",
    "an absolute path without '..' of at most 107 bytes, the longest a unix socket can have",
    |text| absolute_path(text).filter(|path| path.as_str().len() <= MAX_SOCKET_PATH),
);
pub(crate) static MODE: Kind<u32> = kind(
    "mode",
    "three or four octal digits such as 0660, without execute bits",
    |text| {
        let octal = (3..=4).contains(&text.len());
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| octal && !text.starts_with('+') && mode & !0o666 == 0)
    },
);
pub(crate) static GROUP: Kind<Option<String>> = kind("group", "a group's name or number", |text| {
    optional(text, |text| word(text, 32, "-_.").map(str::to_owned))
});
pub(crate) static PORT: Kind<Option<u16>> = kind("port", "a number from 1 to 65535", |text| {
    optional(text, |text| number(text, 1, 65_535))
});
pub(crate) static ADDRESS: Kind<IpAddr> = kind(
    "address",
    "an IPv4 or IPv6 address such as 127.0.0.1 or ::1",
    |text| text.parse().ok(),
);
pub(crate) static TOKEN: Kind<Option<Secret>> = Kind {
    name: "secret",
    form: "16 to 1024 printable ASCII characters without spaces",
    secret: true,
    parse: |text| optional(text, token),
};
pub(crate) static DOMAIN: Kind<String> = kind(
    "domain",
    "a domain name of labels of a-z, 0-9 and '-', such as hearth.internal",
    domain,
);
pub(crate) static INTERFACE: Kind<String> = kind(
    "interface",
    "1 to 15 letters, digits, '-', '_' or '.', beginning with a letter",
    |text| identifier(text, MAX_INTERFACE, "-_."),
);
pub(crate) static IDENTIFIER: Kind<String> = kind(
    "name",
    "1 to 32 letters, digits or '_', beginning with a letter",
    |text| identifier(text, 32, "_"),
);
pub(crate) static SUBNET: Kind<Ipv4Net> = kind(
    "subnet",
    "an IPv4 network of /8 to /29 with no host bits set, such as 10.213.0.0/16",
    |text| {
        let net: Ipv4Net = text.parse().ok()?;
        ((8..=29).contains(&net.prefix_len()) && net.trunc() == net).then_some(net)
    },
);
pub(crate) static UID: Kind<u32> = kind("uid", "0, or a number from 1000 to 4294967294", |text| {
    number(text, 0, u32::MAX - 1).filter(|uid| *uid == 0 || *uid >= 1000)
});
pub(crate) static UID_COUNT: Kind<u32> = kind("count", "a number from 1 to 1000000", |text| {
    number(text, 1, 1_000_000)
});
pub(crate) static COUNT: Kind<u32> = kind("count", "a number from 0 to 1000000", |text| {
    number(text, 0, 1_000_000)
});
pub(crate) static PERCENT: Kind<u32> = kind("percent", "a number from 0 to 100", |text| {
    number(text, 0, 100)
});
// No more are remembered of one VM.
pub(crate) static FAILURES: Kind<u32> =
    kind("count", "a number from 0 to 16", |text| number(text, 0, 16));
pub(crate) static POSITIVE_COUNT: Kind<u32> =
    kind("count", "a number from 1 to 1000000000", |text| {
        number(text, 1, 1_000_000_000)
    });
// Folders that are removed hold descriptors for each level.
pub(crate) static DEPTH: Kind<u32> = kind("count", "a number from 1 to 255", |text| {
    number(text, 1, 255)
});
pub(crate) static CONCURRENCY: Kind<u32> =
    kind("count", "a number from 1 to 64", |text| number(text, 1, 64));
pub(crate) static LOG_KEEP: Kind<u32> = kind("count", "a number from 0 to 100", |text| {
    number(text, 0, 100)
});
pub(crate) static SIZE: Kind<Bytes> = kind(
    "size",
    "a whole number of at least 1MiB with a unit: KiB, MiB, GiB or TiB, such as 64GiB",
    |text| size(text, MIB),
);
pub(crate) static LOG_SIZE: Kind<Bytes> = kind(
    "size",
    "a whole number of at least 64KiB with a unit: KiB, MiB, GiB or TiB, such as 8MiB",
    |text| size(text, 64 * 1024),
);
pub(crate) static DURATION: Kind<Span> = kind(
    "duration",
    "a whole number with a unit: ms, s, m or h, such as 30s",
    |text| text.parse().ok(),
);
pub(crate) static POSITIVE_DURATION: Kind<Span> = kind(
    "duration",
    "a whole number above 0 with a unit: ms, s, m or h, such as 30s",
    |text| text.parse().ok().filter(|span: &Span| span.as_millis() > 0),
);
pub(crate) static ACCEL: Kind<AccelMode> = kind("choice", "auto or off", |text| match text {
    "auto" => Some(AccelMode::Auto),
    "off" => Some(AccelMode::Off),
    _ => None,
});
pub(crate) static DRIVER: Kind<DefaultDriver> =
    kind("choice", "qemu or firecracker", |text| match text {
        "qemu" => Some(DefaultDriver::Qemu),
        "firecracker" => Some(DefaultDriver::Firecracker),
        _ => None,
    });
pub(crate) static STORAGE: Kind<Storage> =
    kind("choice", "files, thin or auto", |text| match text {
        "files" => Some(Storage::Files),
        "thin" => Some(Storage::Thin),
        "auto" => Some(Storage::Auto),
        _ => None,
    });
pub(crate) static CPU_TEMPLATE: Kind<Option<String>> = kind(
    "CPU template",
    "a name such as T2, or an absolute path",
    |text| {
        let name = text.bytes().all(|b| b.is_ascii_alphanumeric());
        match text {
            "" => Some(None),
            text if name || text.starts_with('/') => Some(Some(text.to_owned())),
            _ => None,
        }
    },
);
pub(crate) static ORPHANS: Kind<OrphanMode> =
    kind("choice", "remove or report", |text| match text {
        "remove" => Some(OrphanMode::Remove),
        "report" => Some(OrphanMode::Report),
        _ => None,
    });
pub(crate) static PROVEN_ORPHANS: Kind<OrphanMode> =
    kind("choice", "remove, proven or report", |text| match text {
        "proven" => Some(OrphanMode::Proven),
        text => (ORPHANS.parse)(text),
    });
pub(crate) static BOOTSTRAP: Kind<BootstrapPolicy> =
    kind("choice", "restart-all, restart-healthy or manual", |text| {
        text.parse().ok()
    });
pub(crate) static ENDPOINT: Kind<Option<String>> =
    kind("URL", "https://host or http://host:port", |text| {
        if text.is_empty() {
            return Some(None);
        }
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))?;
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'@' | b'?' | b'#');
        (!rest.is_empty() && rest.bytes().all(plain)).then(|| Some(text.to_owned()))
    });
pub(crate) static WORD: Kind<Option<String>> =
    kind("name", "1 to 128 printable ASCII characters", |text| {
        let fits = text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| (!text.is_empty()).then(|| text.to_owned()))
    });
pub(crate) static OPTIONAL_SIZE: Kind<Option<Bytes>> = kind(
    "size",
    "a whole number of at least 64MiB with a unit: KiB, MiB, GiB or TiB, such as 500GiB",
    |text| optional(text, |text| size(text, 64 * MIB)),
);
pub(crate) static KEEP: Kind<u32> = kind("count", "a number from 1 to 1000", |text| {
    number(text, 1, 1000)
});
pub(crate) static GARBAGE: Kind<Vec<GcKind>> = kind(
    "list",
    "kinds of garbage with commas between them: thin_device, leftover, download, log, dump, draft, backup, job, aside, image",
    |text| match text {
        "" => Some(Vec::new()),
        text => text
            .split(',')
            .map(|kind| kind.trim().parse().ok())
            .collect(),
    },
);
pub(crate) static SWITCH: Kind<bool> = kind("switch", "on or off", |text| match text {
    "on" => Some(true),
    "off" => Some(false),
    _ => None,
});
pub(crate) static RESERVE: Kind<DiskReserve> = kind(
    "size or percentage",
    "0, a whole number with a unit: KiB, MiB, GiB or TiB, or a percentage from 1% to 50%",
    |text| match text.strip_suffix('%') {
        Some(percent) => number(percent, 1, 50).map(DiskReserve::Percent),
        None if text == "0" => Some(DiskReserve::Bytes(Bytes(0))),
        None => size(text, 1024).map(DiskReserve::Bytes),
    },
);
pub(crate) static LOG_FORMAT: Kind<LogFormat> = kind("choice", "text or json", |text| match text {
    "text" => Some(LogFormat::Text),
    "json" => Some(LogFormat::Json),
    _ => None,
});
pub(crate) static LOG_FILTER: Kind<String> = kind(
    "filter",
    "error, warn, info, debug, trace or off, or directives such as info,hearth_net=debug",
    log_filter,
);

#[expect(
    clippy::option_option,
    reason = "the outer one says whether the text is valid, the inner one whether anything is set"
)]
fn optional<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text.is_empty() {
        Some(None)
    } else {
        parse(text).map(Some)
    }
}

fn absolute_path(text: &str) -> Option<Utf8PathBuf> {
    let clean = text.starts_with('/')
        && !text.chars().any(char::is_control)
        && text.split('/').all(|part| part != "..");
    clean.then(|| Utf8PathBuf::from(text))
}

/// Digits only: no sign, no spaces.
fn number<T: TryFrom<u32>>(text: &str, least: u32, most: u32) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number: u32 = text.parse().ok().filter(|_| digits)?;
    (least..=most)
        .contains(&number)
        .then(|| number.try_into().ok())
        .flatten()
}

fn size(text: &str, least: u64) -> Option<Bytes> {
    text.parse().ok().filter(|size: &Bytes| size.0 >= least)
}

fn word<'a>(text: &'a str, most: usize, extra: &str) -> Option<&'a str> {
    let fits = (1..=most).contains(&text.len());
    let known = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    (fits && text.chars().all(known)).then_some(text)
}

fn identifier(text: &str, most: usize, extra: &str) -> Option<String> {
    word(text, most, extra)
        .filter(|text| text.starts_with(|c: char| c.is_ascii_alphabetic()))
        .map(str::to_owned)
}

fn domain(text: &str) -> Option<String> {
    let label = |label: &str| {
        word(label, 63, "-").is_some_and(|label| {
            !label.starts_with('-')
                && !label.ends_with('-')
                && !label.contains(|c: char| c.is_ascii_uppercase())
        })
    };
    // 253 is the longest name that DNS can carry; a VM's label and a dot come before ours.
    (text.len() <= 253 - 64 && text.split('.').all(label)).then(|| text.to_owned())
}

pub(crate) fn token(text: &str) -> Option<Secret> {
    let fits = (MIN_TOKEN..=MAX_TOKEN).contains(&text.len());
    (fits && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Secret(text.to_owned()))
}

/// Only the form: the log library reads it again.
fn log_filter(text: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let level = |text: &str| LEVELS.contains(&text.to_ascii_lowercase().as_str());
    let directive = |text: &str| match text.split_once('=') {
        None => level(text),
        Some((target, l)) => word(target, 100, "_:").is_some() && level(l),
    };
    text.split(',').all(directive).then(|| text.to_owned())
}
