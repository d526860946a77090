//! Where the daemon is, and the token that it may ask for.

use std::fmt;
use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};

/// The socket that hearthd listens on unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/hearth/hearthd.sock";

/// The largest token file that is read: a token is one line.
const MAX_TOKEN_FILE: u64 = 64 << 10;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(Utf8PathBuf),
    /// A TCP address. The traffic is not encrypted: for loopback and tunnels.
    Tcp {
        /// Host name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Text that is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Host {0:?} is not valid: expected unix:///PATH or tcp://HOST:PORT")]
pub struct InvalidEndpoint(String);

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(DEFAULT_SOCKET.into())
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.to_owned());
        if let Some(path) = text
            .strip_prefix("unix://")
            .or(Some(text))
            .filter(|p| p.starts_with('/'))
        {
            return Ok(Self::Unix(path.into()));
        }
        let address = text
            .strip_prefix("tcp://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or_else(invalid)?
            .trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if bare.is_none() && host.contains([':', '/', '@']) {
            return Err(invalid());
        }
        let host = bare.unwrap_or(host);
        let port = port.parse().ok().filter(|p| *p != 0).ok_or_else(invalid)?;
        if host.is_empty() {
            return Err(invalid());
        }
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// A bearer token. It never shows in `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file could not be read.
    #[error("Cannot read the token file {path}")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is empty or has characters that no header can carry.
    #[error("The token from {origin} is not usable: expected one line of visible ASCII characters")]
    Unusable {
        /// Where it came from.
        origin: String,
    },
}

impl Token {
    /// Checks a token that was read from `origin` (named in the error).
    ///
    /// # Errors
    /// When it is empty or holds anything but visible ASCII characters.
    pub fn new(text: &str, origin: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Unusable {
                origin: origin.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads a token from a file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token.
    pub fn from_file(path: &Utf8Path) -> Result<Self, TokenError> {
        use std::io::Read;
        let read = |source| TokenError::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(read)?;
        let mut text = String::new();
        file.take(MAX_TOKEN_FILE)
            .read_to_string(&mut text)
            .map_err(read)?;
        Self::new(&text, path.as_str())
    }

    /// The value of the `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back() {
        for text in [
            "unix:///run/x.sock",
            "tcp://localhost:8080",
            "tcp://[::1]:80",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!(
            "/a".parse::<Endpoint>().unwrap(),
            Endpoint::Unix("/a".into())
        );
        for bad in [
            "",
            "unix://",
            "unix://a",
            "tcp://",
            "tcp://h",
            "tcp://h:0",
            "tcp://:1",
            "tcp://::1:80",
            "ftp://h:1",
            "tcp://a/b:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn tokens_are_not_shown_and_are_checked() {
        let token = Token::new(" s3cret\n", "test").unwrap();
        assert_eq!(token.header(), "Bearer s3cret");
        assert!(!format!("{token:?}").contains("s3cret"));
        for bad in ["", "  ", "a b", "a\nb", "ä"] {
            assert!(Token::new(bad, "test").is_err(), "{bad:?} was accepted");
        }
    }
}
