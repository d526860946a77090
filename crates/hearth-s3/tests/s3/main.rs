//! Reading from a real S3 server on loopback, and from a machine's metadata service.
// What Clippy asks of a test module: helpers may unwrap and print like the tests themselves.
#[cfg(test)]
mod answers;
#[cfg(test)]
mod metadata;
#[cfg(test)]
mod server;

use std::collections::HashMap;

use hearth_s3::{Environment, Settings};

/// Variables of a daemon; no files.
#[derive(Default)]
pub(crate) struct Variables(pub(crate) HashMap<&'static str, String>);

impl Variables {
    pub(crate) fn keys(secret: &str) -> Self {
        Self(HashMap::from([
            ("AWS_ACCESS_KEY_ID", server::KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ]))
    }
}

impl Environment for Variables {
    fn variable(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn file(&self, _: &str) -> std::io::Result<Option<String>> {
        Ok(None)
    }
}

pub(crate) fn settings(endpoint: String) -> Settings {
    Settings {
        endpoint: Some(endpoint),
        path_style: true,
        ..Settings::default()
    }
}
