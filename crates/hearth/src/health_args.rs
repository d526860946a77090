//! The flags about a VM's health, with docker's names where docker has them.

use clap::Args;

use hearth_types::spec::HealthSpec;
use hearth_types::spec::health::{CheckKind, CheckSpec, OnFailure};
use hearth_types::units::Span;

use crate::values;

#[derive(Debug, Args)]
#[command(next_help_heading = "Health")]
pub(crate) struct HealthArgs {
    /// Command in the guest's /bin/sh that exits with 0 while all is well; instead of the image's
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,

    /// Port of the guest that must accept connections (several times)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    health_tcp: Vec<u16>,

    /// HTTP request to the guest that must be answered with 200 to 399 (several times)
    #[arg(long, value_name = "PORT[/PATH]", value_parser = http)]
    health_http: Vec<CheckSpec>,

    /// QEMU's guest agent in the guest must answer: the VM gets a port for it
    #[arg(long)]
    health_qemu_agent: bool,

    /// Text that has to appear on the console, such as "login:"
    #[arg(long, value_name = "TEXT")]
    health_console: Option<String>,

    /// Time between two checks [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::span)]
    health_interval: Option<Span>,

    /// How long an answer may take [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = values::span)]
    health_timeout: Option<Span>,

    /// How long the guest may take to come up [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = values::span)]
    health_start_period: Option<Span>,

    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,

    /// Successes in a row that make it healthy again [default: 2]
    #[arg(long, value_name = "N")]
    health_successes: Option<u32>,

    /// When it is unhealthy: none, or restart as its restart policy says [default: none]
    #[arg(long, value_name = "ACTION", value_parser = values::word::<OnFailure>(&["none", "restart"]))]
    health_on_failure: Option<OnFailure>,

    /// Built-in check to leave out (several times)
    #[arg(long, value_name = "CHECK", value_parser = values::word::<CheckKind>(&["process", "vmm-api", "agent", "console"]))]
    health_without: Vec<CheckKind>,

    /// Without the image's HEALTHCHECK
    #[arg(long, conflicts_with = "health_cmd")]
    no_healthcheck: bool,
}

impl HealthArgs {
    pub(crate) fn to_health(&self) -> HealthSpec {
        HealthSpec {
            interval: self.health_interval,
            timeout: self.health_timeout,
            start_period: self.health_start_period,
            failure_threshold: self.health_retries,
            success_threshold: self.health_successes,
            on_failure: self.health_on_failure,
            ignore_image: self.no_healthcheck,
            without: self.health_without.clone(),
            checks: self.checks(),
        }
    }

    fn checks(&self) -> Vec<CheckSpec> {
        let console = self.health_console.iter().map(|text| CheckSpec {
            pattern: Some(text.clone()),
            ..CheckSpec::new(CheckKind::Console)
        });
        let tcp = self.health_tcp.iter().map(|port| CheckSpec {
            name: Some(format!("tcp-{port}")),
            port: Some(*port),
            ..CheckSpec::new(CheckKind::Tcp)
        });
        let http = self.health_http.iter().enumerate();
        let http = http.map(|(index, check)| CheckSpec {
            name: (index > 0).then(|| format!("http-{}", index + 1)),
            ..check.clone()
        });
        let cmd = self.health_cmd.iter().map(|text| CheckSpec {
            name: Some("cmd".to_owned()),
            command: Some(["/bin/sh", "-c", text].map(str::to_owned).to_vec()),
            ..CheckSpec::new(CheckKind::Exec)
        });
        let qemu = self
            .health_qemu_agent
            .then(|| CheckSpec::new(CheckKind::QemuAgent));
        console
            .chain(tcp)
            .chain(http)
            .chain(cmd)
            .chain(qemu)
            .collect()
    }
}

/// `80` or `80/healthz`.
fn http(text: &str) -> Result<CheckSpec, String> {
    let (port, path) = match text.find('/') {
        Some(at) => (&text[..at], Some(text[at..].to_owned())),
        None => (text, None),
    };
    let port = port.parse::<u16>().ok().filter(|port| *port != 0);
    let port = port.ok_or("a port and a path are expected, such as 80/healthz")?;
    Ok(CheckSpec {
        port: Some(port),
        path,
        ..CheckSpec::new(CheckKind::Http)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_reads_port_and_path() {
        let check = http("8080/ready?a=/b").unwrap();
        assert_eq!(check.port, Some(8080));
        assert_eq!(check.path.as_deref(), Some("/ready?a=/b"));
        assert_eq!(http("80").unwrap().path, None);
        for bad in ["", "/", "x/", "0", "70000/x", "80:81"] {
            assert!(http(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
