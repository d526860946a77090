//! The connection to systemd and the calls.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use jiff::Timestamp;
use zbus::connection::Builder;
use zbus::message::Message;
use zbus::wire::{Fd, OwnedObjectPath, OwnedVariant, Variant};
use zbus::{Connection, DynamicType};

use crate::property::Property;

/// systemd's name on the bus.
const NAME: &str = "org.freedesktop.systemd1";
/// Its manager object and interface.
const MANAGER: (&str, &str) = (
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
);
/// The interface of services.
const SERVICE: &str = "org.freedesktop.systemd1.Service";
/// How long one call may take. systemd answers in a millisecond; a host that boots or
/// reloads its units may need seconds.
const DEADLINE: Duration = Duration::from_secs(20);
/// The units in a list before it is taken for nonsense.
const LISTED_MAX: usize = 100_000;

/// How a conversation with systemd failed.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The bus cannot be reached. There is no other way in: PID 1's private socket is for
    /// `systemctl` alone and speaks a dialect of its own.
    #[error(
        "systemd cannot be asked for units: the system bus does not answer ({0}); start dbus.service"
    )]
    Unreachable(String),
    /// A unit of that name is loaded already.
    #[error("there is a unit {unit} already")]
    Exists {
        /// The unit.
        unit: String,
    },
    /// systemd refused, or did not answer in time.
    #[error("systemd did not {call}{unit}", unit = of(unit))]
    Call {
        /// The method.
        call: &'static str,
        /// The unit it was about; empty for none.
        unit: String,
        /// Why.
        #[source]
        source: Box<zbus::Error>,
    },
    /// systemd answered something that is not understood.
    #[error("systemd's answer to {call} is not understood: {detail}")]
    Answer {
        /// The method.
        call: &'static str,
        /// What is odd.
        detail: String,
    },
}

impl SystemdError {
    /// Whether systemd or the bus was only too slow or not there yet, as during a boot: the
    /// same call may succeed in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Call { source, .. } => {
                matches!(&**source, zbus::Error::InputOutput(error) if error.kind() == std::io::ErrorKind::TimedOut)
            }
            Self::Exists { .. } | Self::Answer { .. } => false,
        }
    }
}

fn of(unit: &str) -> String {
    if unit.is_empty() {
        String::new()
    } else {
        format!(" for {unit}")
    }
}

/// What a unit is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its main process runs or starts.
    Active,
    /// It is being stopped.
    Deactivating,
    /// It has ended with a failure and is still known.
    Failed,
    /// It does not run.
    Inactive,
}

impl State {
    /// From systemd's `ActiveState`.
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "active" | "activating" | "reloading" | "refreshing" => Self::Active,
            "deactivating" | "maintenance" => Self::Deactivating,
            "failed" => Self::Failed,
            "inactive" => Self::Inactive,
            _ => return None,
        })
    }
}

/// A unit in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, such as `hearth-vm-….service`.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// The state in systemd's finer words, such as `running`, `stop-sigterm`.
    pub sub: String,
    /// Its object on the bus.
    path: String,
}

/// How a service's last run ended, in systemd's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `success`, `exit-code`, `signal`, `oom-kill`, `resources` …
    pub result: String,
    /// The main process' exit status, or the signal's number. Below 200 they are the
    /// program's own; 200 to 242 are steps before its first instruction (systemd.exec(5)).
    pub status: i32,
}

/// A connection to systemd.
#[derive(Debug)]
pub struct Manager {
    connection: Connection,
}

impl Manager {
    /// Connects over the system bus.
    ///
    /// # Errors
    /// [`SystemdError::Unreachable`] with the reason.
    pub async fn connect() -> Result<Self, SystemdError> {
        let build = Builder::system().method_timeout(DEADLINE).build();
        match tokio::time::timeout(DEADLINE, build).await {
            Ok(Ok(connection)) => Ok(Self { connection }),
            Ok(Err(error)) => Err(SystemdError::Unreachable(error.to_string())),
            Err(_) => Err(SystemdError::Unreachable(format!(
                "no answer within {} s",
                DEADLINE.as_secs()
            ))),
        }
    }

    /// systemd's major version, such as 252.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn version(&self) -> Result<u32, SystemdError> {
        const CALL: &str = "tell its version";
        let version: String = self.property(CALL, MANAGER.0, MANAGER.1, "Version").await?;
        major(&version).ok_or_else(|| SystemdError::Answer {
            call: CALL,
            detail: format!("{version:?} is no version"),
        })
    }

    /// Makes a service with these properties and begins to start it. Its standard input
    /// and output are the given files, which systemd holds open for as long as the unit is.
    ///
    /// # Errors
    /// [`SystemdError::Exists`] when a unit of that name is loaded, failed ones included.
    pub async fn start(
        &self,
        unit: &str,
        properties: &[Property],
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> Result<(), SystemdError> {
        let streams = [
            ("StandardInputFileDescriptor", Fd::from(input).into()),
            ("StandardOutputFileDescriptor", Fd::from(output).into()),
        ];
        self.make(unit, properties, streams).await
    }

    /// The same for a service that talks to nobody.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_alone(
        &self,
        unit: &str,
        properties: &[Property],
    ) -> Result<(), SystemdError> {
        self.make(unit, properties, []).await
    }

    async fn make<'a>(
        &self,
        unit: &str,
        properties: &'a [Property],
        streams: impl IntoIterator<Item = (&'a str, Variant<'a>)>,
    ) -> Result<(), SystemdError> {
        type Auxiliary<'a> = Vec<(&'a str, Vec<(&'a str, Variant<'a>)>)>;
        let mut all: Vec<(&str, Variant<'_>)> = properties
            .iter()
            .map(|property| (property.name, property.value.to_variant()))
            .collect();
        all.extend(streams);
        let body = (unit, "fail", all, Auxiliary::new());
        self.call("StartTransientUnit", unit, &body).await.map(drop)
    }

    /// Changes properties of a unit that is loaded, until it is gone or the host reboots. The kernel has
    /// them when this returns, also those that systemd believed to be set.
    ///
    /// # Errors
    /// When systemd refuses, does not know the unit or does not answer.
    pub async fn set_properties(
        &self,
        unit: &str,
        properties: &[Property],
    ) -> Result<(), SystemdError> {
        let all: Vec<(&str, Variant<'_>)> = properties
            .iter()
            .map(|property| (property.name, property.value.to_variant()))
            .collect();
        let runtime = true;
        let body = (unit, runtime, all);
        self.call("SetUnitProperties", unit, &body).await.map(drop)
    }

    /// What a unit is doing; `None` when systemd does not know it.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn state(&self, unit: &str) -> Result<Option<State>, SystemdError> {
        Ok(self.look(unit).await?.map(|listed| listed.state))
    }

    /// One unit as a list shows it; `None` when systemd does not know it.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn look(&self, unit: &str) -> Result<Option<Listed>, SystemdError> {
        let listed = self.list(unit).await?;
        Ok(listed.into_iter().find(|listed| listed.name == unit))
    }

    /// The loaded units whose names match a pattern, as in a shell.
    ///
    /// # Errors
    /// When systemd does not answer, or with a state that is not known.
    pub async fn list(&self, pattern: &str) -> Result<Vec<Listed>, SystemdError> {
        const CALL: &str = "ListUnitsByPatterns";
        type Row = (
            String,
            String,
            String,
            String,
            String,
            String,
            OwnedObjectPath,
            u32,
            String,
            OwnedObjectPath,
        );
        let body = (Vec::<&str>::new(), vec![pattern]);
        let answer = self.call(CALL, pattern, &body).await?;
        let rows: Vec<Row> = answer
            .body()
            .deserialize()
            .map_err(|source| failed(CALL, pattern, source))?;
        rows.into_iter()
            .take(LISTED_MAX)
            // Units that others only refer to are in the list, too, as not found.
            .filter(|row| row.2 != "not-found")
            .map(|row| {
                let state = State::parse(&row.3).ok_or_else(|| SystemdError::Answer {
                    call: CALL,
                    detail: format!("unit {} is in state {:?}", row.0, row.3),
                })?;
                Ok(Listed {
                    name: row.0,
                    state,
                    sub: row.4,
                    path: row.6.to_string(),
                })
            })
            .collect()
    }

    /// The environment that was set for a service, as `NAME=value`; empty for one that
    /// systemd does not know any more.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn environment(&self, unit: &Listed) -> Result<Vec<String>, SystemdError> {
        let call = "tell its environment";
        let environment = self.property(call, &unit.path, SERVICE, "Environment");
        environment.await
    }

    /// When a unit's state became what it is; `None` if it never changed.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn since(&self, unit: &Listed) -> Result<Option<Timestamp>, SystemdError> {
        const UNIT: &str = "org.freedesktop.systemd1.Unit";
        let call = "tell since when";
        let micros: u64 = self
            .property(call, &unit.path, UNIT, "StateChangeTimestamp")
            .await?;
        let since = i64::try_from(micros)
            .ok()
            .and_then(|micros| Timestamp::from_microsecond(micros).ok());
        Ok(since.filter(|_| micros > 0))
    }

    /// How a service ended; `None` when systemd does not know the unit any more.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn outcome(&self, unit: &str) -> Result<Option<Outcome>, SystemdError> {
        let answer = match self.call("GetUnit", unit, &(unit,)).await {
            Ok(answer) => answer,
            Err(error) if is_named(&error, "NoSuchUnit") => return Ok(None),
            Err(error) => return Err(error),
        };
        let path: OwnedObjectPath = answer
            .body()
            .deserialize()
            .map_err(|source| failed("GetUnit", unit, source))?;
        let call = "tell how it ended";
        let result = self.property(call, path.as_str(), SERVICE, "Result");
        let status = self.property(call, path.as_str(), SERVICE, "ExecMainStatus");
        Ok(Some(Outcome {
            result: result.await?,
            status: status.await?,
        }))
    }

    /// Forgets a failed unit. One that is not known is a success.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        gone_is_fine(self.call("ResetFailedUnit", unit, &(unit,)).await)
    }

    /// Begins to stop a unit. One that is not known is a success.
    ///
    /// # Errors
    /// When systemd refuses or does not answer.
    pub async fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        gone_is_fine(self.call("StopUnit", unit, &(unit, "replace")).await)
    }

    async fn call<B>(
        &self,
        method: &'static str,
        unit: &str,
        body: &B,
    ) -> Result<Message, SystemdError>
    where
        B: serde::Serialize + DynamicType,
    {
        self.connection
            .call_method(Some(NAME), MANAGER.0, Some(MANAGER.1), method, body)
            .await
            .map_err(|source| failed(method, unit, source))
    }

    async fn property<T>(
        &self,
        call: &'static str,
        path: &str,
        interface: &str,
        name: &str,
    ) -> Result<T, SystemdError>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: std::fmt::Display,
    {
        const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
        let answer = self
            .connection
            .call_method(
                Some(NAME),
                path,
                Some(PROPERTIES),
                "Get",
                &(interface, name),
            )
            .await
            .map_err(|source| failed(call, "", source))?;
        let value: OwnedVariant = answer
            .body()
            .deserialize()
            .map_err(|source| failed(call, "", source))?;
        T::try_from(value).map_err(|error| SystemdError::Answer {
            call,
            detail: format!("{name}: {error}"),
        })
    }
}

fn failed(call: &'static str, unit: &str, source: zbus::Error) -> SystemdError {
    if matches!(&source, zbus::Error::MethodError(name, ..) if is_error(name.as_str(), "UnitExists"))
    {
        return SystemdError::Exists {
            unit: unit.to_owned(),
        };
    }
    SystemdError::Call {
        call,
        unit: unit.to_owned(),
        source: Box::new(source),
    }
}

fn is_error(name: &str, last: &str) -> bool {
    name.strip_prefix(NAME)
        .and_then(|rest| rest.strip_prefix('.'))
        == Some(last)
}

fn is_named(error: &SystemdError, last: &str) -> bool {
    let SystemdError::Call { source, .. } = error else {
        return false;
    };
    matches!(&**source, zbus::Error::MethodError(name, ..) if is_error(name.as_str(), last))
}

fn gone_is_fine(answer: Result<Message, SystemdError>) -> Result<(), SystemdError> {
    match answer {
        Err(error) if !is_named(&error, "NoSuchUnit") => Err(error),
        _ => Ok(()),
    }
}

/// `252.39-1~deb12u1` and `v255` begin with the major version.
fn major(version: &str) -> Option<u32> {
    let version = version.trim_start_matches('v');
    let end = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    version[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, version) in [
            ("252.39-1~deb12u1", Some(252)),
            ("v255", Some(255)),
            ("249", Some(249)),
            ("", None),
            ("unknown", None),
        ] {
            assert_eq!(major(text), version, "{text}");
        }
    }

    #[test]
    fn errors_are_told_by_their_last_word() {
        assert!(is_error(
            "org.freedesktop.systemd1.UnitExists",
            "UnitExists"
        ));
        assert!(!is_error("org.example.UnitExists", "UnitExists"));
    }

    #[tokio::test]
    async fn without_a_bus_it_is_said_what_to_do() {
        if std::path::Path::new("/run/dbus/system_bus_socket").exists() {
            println!("SKIP: a system bus runs here");
            return;
        }
        let error = Manager::connect().await.unwrap_err().to_string();
        assert!(error.contains("start dbus.service"), "{error}");
    }
}
