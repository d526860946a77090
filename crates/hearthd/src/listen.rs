//! Where the API listens: the unix socket, and TCP if it is asked for.
//!
//! The unix socket is the service manager's if it passed one: its unit then says path, owner
//! and mode, clients that come during a restart wait in it instead of being refused, and it
//! stays when the daemon ends. Else the daemon makes its own and removes it at its end.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_config::{Config, Secret};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::api::auth::{Token, Tokens};
use crate::api::{self, Api};

/// The group that owns the socket when nobody chose one and it exists: packages make it.
pub const GROUP: &str = "hearth";

/// A task that serves until the daemon ends.
pub type Server = tokio::task::JoinHandle<()>;

/// The unix sockets of the API.
#[derive(Debug)]
pub struct Sockets {
    listeners: Vec<StdUnixListener>,
    /// The one that this daemon made.
    own: Option<Utf8PathBuf>,
}

impl Sockets {
    /// Takes what the service manager passed, or makes the socket of the configuration.
    ///
    /// # Errors
    /// When the socket cannot be made, or another program listens on it.
    pub fn open(config: &Config, passed: Vec<StdUnixListener>) -> anyhow::Result<Self> {
        if passed.is_empty() {
            return Ok(Self {
                listeners: vec![bind(config)?],
                own: Some(config.socket.clone()),
            });
        }
        let paths: Vec<_> = passed.iter().filter_map(path_of).collect();
        if !paths.contains(&config.socket) {
            tracing::warn!(
                passed = ?paths,
                socket = %config.socket,
                "the service manager's socket is used, not SOCKET; to change it: systemctl edit hearthd.socket"
            );
        }
        Ok(Self {
            listeners: passed,
            own: None,
        })
    }

    /// Serves the API on them, and on TCP if the configuration asks for it.
    ///
    /// # Errors
    /// When the TCP port cannot be listened on.
    pub async fn serve(
        &self,
        config: &Config,
        state: Api,
        stopping: watch::Receiver<bool>,
    ) -> anyhow::Result<Vec<Server>> {
        let mut servers = Vec::new();
        for listener in &self.listeners {
            // The original stays open here until the daemon ends: with the last descriptor of
            // a socket, those who wait in it would be turned away.
            let listener = UnixListener::from_std(listener.try_clone()?)
                .context("the API's socket cannot be used")?;
            let router = api::router(state.clone());
            servers.push(tokio::spawn(api::serve::serve(
                listener,
                router,
                stopping.clone(),
            )));
        }
        if let Some(port) = config.api_port {
            servers.push(serve_tcp(config, port, state, stopping).await?);
        }
        Ok(servers)
    }

    /// Removes the socket that this daemon made; the service manager's stays.
    pub fn remove(self) {
        let Some(path) = self.own else { return };
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%path, error = %error, "the socket could not be removed");
        }
    }
}

fn path_of(listener: &StdUnixListener) -> Option<Utf8PathBuf> {
    let address = listener.local_addr().ok()?;
    Utf8PathBuf::from_path_buf(address.as_pathname()?.to_owned()).ok()
}

fn bind(config: &Config) -> anyhow::Result<StdUnixListener> {
    let path = &config.socket;
    clear_stale_socket(path)?;
    let listener =
        StdUnixListener::bind(path).with_context(|| format!("cannot listen on {path}"))?;
    listener.set_nonblocking(true)?;
    let gid = match &config.socket_group {
        Some(group) => Some(group_id(group)?.with_context(|| {
            format!("SOCKET_GROUP: there is no group {group}; make it: groupadd --system {group}")
        })?),
        None => group_id(GROUP)?,
    };
    if let Some(gid) = gid {
        std::os::unix::fs::chown(path, None, Some(gid))
            .with_context(|| format!("cannot give {path} to group {gid}"))?;
    }
    // After the owner: nobody passes while the wrong group has the socket.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.socket_mode))
        .with_context(|| format!("cannot set the mode of {path}"))?;
    Ok(listener)
}

async fn serve_tcp(
    config: &Config,
    port: u16,
    state: Api,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<Server> {
    let all = config
        .api_token
        .as_ref()
        .context("API_PORT needs API_TOKEN")?;
    let address = (config.api_address, port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {}:{port}", config.api_address))?;
    let token = |secret: &Secret| Token::new(secret.expose());
    let metrics = config.metrics_token.as_ref().map(token);
    let router = api::router_with_token(state, Tokens::new(token(all), metrics));
    tracing::info!(address = %config.api_address, port, "the API is served over TCP, too");
    Ok(tokio::spawn(api::serve::serve(listener, router, stopping)))
}

/// A socket that nobody listens on was left by a daemon that was killed. Anything else is
/// somebody's and stays.
fn clear_stale_socket(path: &Utf8Path) -> anyhow::Result<()> {
    let meta = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta.with_context(|| format!("cannot look at {path}"))?,
    };
    anyhow::ensure!(
        meta.file_type().is_socket(),
        "{path} exists and is not a socket: choose another SOCKET or move it away"
    );
    match UnixStream::connect(path) {
        Ok(_) => anyhow::bail!("another program listens on {path}: choose another SOCKET"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).with_context(|| format!("cannot remove the stale {path}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot find out who listens on {path}")),
    }
}

/// A group's number, by number or by its name in /etc/group; `None` if there is no such group.
///
/// # Errors
/// When the groups cannot be read.
fn group_id(group: &str) -> anyhow::Result<Option<u32>> {
    if let Ok(number) = group.parse() {
        return Ok(Some(number));
    }
    let text = std::fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    let found = groups(&text).find(|(name, _)| *name == group);
    Ok(found.map(|(_, gid)| gid))
}

/// A group's name, or its number where it has none.
pub(crate) fn group_name(gid: u32) -> String {
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups(&text).find(|(_, number)| *number == gid);
    found.map_or_else(|| gid.to_string(), |(name, _)| name.to_owned())
}

/// Names and numbers of the lines of /etc/group.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}
