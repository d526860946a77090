//! Opening a byte stream to the daemon, with advice when that fails.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::{ClientError, Endpoint};

/// A TCP connect to a host that drops packets would else take minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A byte stream both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) type BoxStream = Pin<Box<dyn Stream>>;

pub(crate) async fn open(endpoint: &Endpoint) -> Result<BoxStream, ClientError> {
    connect(endpoint)
        .await
        .map_err(|source| ClientError::Unreachable {
            endpoint: endpoint.to_string(),
            hint: hint(endpoint, &source),
            source,
        })
}

async fn connect(endpoint: &Endpoint) -> io::Result<BoxStream> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::pin(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host, port } => {
            let stream =
                tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), *port)))
                    .await
                    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s"))??;
            // Keystrokes of a console must not wait for more bytes.
            stream.set_nodelay(true)?;
            Ok(Box::pin(stream))
        }
    }
}

fn hint(endpoint: &Endpoint, error: &io::Error) -> String {
    match (endpoint, error.kind()) {
        (Endpoint::Unix(path), io::ErrorKind::NotFound) => format!(
            "is hearthd running? There is no socket {path}; another one is chosen with --host or HEARTH_HOST"
        ),
        (Endpoint::Unix(_), io::ErrorKind::ConnectionRefused) => {
            "is hearthd running? The socket is there, but nobody listens on it".to_owned()
        }
        (Endpoint::Unix(path), io::ErrorKind::PermissionDenied) => match std::fs::metadata(path) {
            Ok(meta) => {
                let group = group_name(meta.gid());
                format!(
                    "members of the group {group} may use the socket: sudo usermod -aG {group} USER, then log in anew; or use sudo"
                )
            }
            Err(_) => "you may not enter the socket's folder: use sudo, or ask for membership in the group that owns it".to_owned(),
        },
        (Endpoint::Unix(_), _) => "is hearthd running, and is this its socket?".to_owned(),
        (Endpoint::Tcp { .. }, io::ErrorKind::ConnectionRefused) => {
            "is hearthd running, and was it told to listen on TCP?".to_owned()
        }
        (Endpoint::Tcp { .. }, _) => "check the host, the port and the firewall between".to_owned(),
    }
}

/// A group's name, or its number where it has none.
fn group_name(gid: u32) -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let mut lines = groups.lines().map(|line| line.split(':'));
    let found = lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| gid.to_string())
}
