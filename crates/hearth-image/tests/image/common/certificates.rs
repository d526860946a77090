//! Keys and certificates made at run time, by openssl.

use std::path::{Path, PathBuf};

use super::registry::run;

/// A certificate and its key, as PEM files.
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

fn pair(dir: &Path, name: &str) -> Pair {
    Pair {
        certificate: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An authority of its own.
pub(crate) fn authority(dir: &Path, name: &str) -> Pair {
    let made = pair(dir, name);
    let (subject, key, certificate) = (
        format!("/CN={name}"),
        text(&made.key),
        text(&made.certificate),
    );
    let mut args = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes"];
    args.extend(["-subj", &subject, "-keyout", key, "-out", certificate]);
    run("openssl", &args);
    made
}

/// A server's certificate, issued by an authority for this name (`DNS:x`, `IP:127.0.0.1`).
pub(crate) fn issued(dir: &Path, by: &Pair, name: &str, days: &str) -> Pair {
    let made = pair(dir, "server");
    let (request, extensions) = (dir.join("server.csr"), dir.join("server.ext"));
    std::fs::write(&extensions, format!("subjectAltName={name}\n")).unwrap();
    let mut args = vec!["req", "-new", "-newkey", "rsa:2048", "-nodes"];
    args.extend(["-subj", "/CN=server", "-keyout", text(&made.key)]);
    args.extend(["-out", text(&request)]);
    run("openssl", &args);
    let mut args = vec!["x509", "-req", "-CAcreateserial", "-days", days];
    args.extend(["-in", text(&request), "-extfile", text(&extensions)]);
    args.extend(["-CA", text(&by.certificate), "-CAkey", text(&by.key)]);
    args.extend(["-out", text(&made.certificate)]);
    run("openssl", &args);
    made
}
