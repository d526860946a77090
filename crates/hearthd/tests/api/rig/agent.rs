//! Guest agents as processes.
//!
//! A process namespace of its own keeps an agent from ever meeting the real PID 1, which it
//! would ask to power off.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::Duration;

use camino::Utf8Path;
use hearth_vmm::Stream;
use serde_json::{Value, json};
use tokio::net::UnixStream;

/// The agents that were started. Without [`Agents::allow`] no VM has one.
#[derive(Default)]
pub(crate) struct Agents {
    program: Mutex<Option<PathBuf>>,
    running: Mutex<Vec<Child>>,
}

impl Agents {
    /// From now on every VM that runs has an agent; false when there is no agent to start.
    pub(crate) fn allow(&self) -> bool {
        let beside = PathBuf::from(env!("CARGO_BIN_EXE_hearthd"));
        let beside = beside.parent().unwrap();
        let places = [beside.parent().unwrap(), beside];
        let found = places
            .iter()
            .map(|place| place.join("hearth-guest"))
            .find(|path| path.is_file());
        if found.is_none() || !rustix::process::geteuid().is_root() {
            println!("SKIP: a guest agent is needed (cargo xtask guest), and root");
            return false;
        }
        *self.program.lock().unwrap() = found;
        true
    }

    /// From now on no agent is started.
    pub(crate) fn forbid(&self) {
        *self.program.lock().unwrap() = None;
    }

    /// Ends all agents, as the deaths of their VMs do; the next run of each has one of its own.
    pub(crate) fn end(&self, dir: &Utf8Path) {
        for mut child in self.running.lock().unwrap().drain(..) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let _gone = std::fs::remove_file(dir.join("rig-agent.sock"));
    }

    /// A connection to the agent of the VM with this folder; starts it first.
    pub(super) async fn connect(&self, dir: &Utf8Path) -> Result<Box<dyn Stream>, String> {
        let program = self.program.lock().unwrap().clone();
        let program = program.ok_or("this guest has no agent")?;
        let socket = dir.join("rig-agent.sock");
        if !socket.exists() {
            let child = start(&program, dir, &socket);
            self.running.lock().unwrap().push(child);
        }
        for _ in 0..500 {
            match UnixStream::connect(&socket).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        Err("the agent does not listen".to_owned())
    }
}

fn start(program: &PathBuf, dir: &Utf8Path, socket: &Utf8Path) -> Child {
    let launch = std::fs::read(dir.join("launch.json")).unwrap();
    let launch: Value = serde_json::from_slice(&launch).unwrap();
    let config = dir.join("rig-agent.json");
    let text = json!({
        "vm_id": dir.file_name().unwrap(),
        "hostname": "guest",
        "boot_nonce": launch["boot_nonce"],
        "process": { "argv": ["x"], "env": [] },
    });
    std::fs::write(&config, text.to_string()).unwrap();
    Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child"])
        .arg(program)
        .args(["agent", "--config", config.as_str(), "--listen"])
        .arg(socket.as_str())
        .spawn()
        .unwrap()
}

impl Drop for Agents {
    fn drop(&mut self) {
        for child in self.running.get_mut().unwrap() {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
    }
}
