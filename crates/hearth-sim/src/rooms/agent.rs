//! The agent of a simulated guest: it says that it is there.

use camino::Utf8Path;
use hearth_guest_proto::message::{HelloAck, PROTOCOL, Ping, Pong};
use hearth_guest_proto::mux::{Mux, MuxEvent};
use hearth_types::process::ProcessIdentity;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::Rooms;
use crate::host::SimProcess;

/// Bytes that may wait in the channel, each way.
const CHANNEL: usize = 256 << 10;
/// Bytes that an agent reads at once: agents come and go all the time.
const READ: usize = 8 << 10;

/// Starts the agent of the guest of this VMM; gives the host's end of its channel.
pub(super) fn start(rooms: &Rooms, vmm: ProcessIdentity, dir: &Utf8Path) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(CHANNEL);
    let agent = Agent {
        rooms: rooms.clone(),
        vm_id: dir.file_name().unwrap_or_default().to_owned(),
        boot_nonce: boot_nonce(dir),
        vmm,
    };
    tokio::spawn(agent.run(theirs));
    ours
}

/// What the guest was told at its start, as the daemon keeps it.
fn boot_nonce(dir: &Utf8Path) -> String {
    let text = std::fs::read(dir.join("launch.json")).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let nonce = record["boot_nonce"].as_str();
    nonce.unwrap_or_default().to_owned()
}

struct Agent {
    rooms: Rooms,
    vm_id: String,
    boot_nonce: String,
    vmm: ProcessIdentity,
}

impl Agent {
    async fn run(self, mut wire: DuplexStream) {
        let mut mux = Mux::guest();
        let mut buffer = vec![0; READ];
        loop {
            let dead = self.rooms.until(|host| {
                let process = host.processes.get(&self.vmm.pid);
                process.is_none_or(|process| process.identity != self.vmm)
            });
            let count = tokio::select! {
                () = dead => return,
                read = wire.read(&mut buffer) => read.unwrap_or(0),
            };
            if count == 0 {
                return;
            }
            if self.does(|process| process.babbles) {
                // For as long as anybody listens.
                while wire.write_all(&buffer).await.is_ok() {}
                return;
            }
            let (hears, latency) = self.state();
            if !hears {
                continue;
            }
            tokio::time::sleep(latency).await;
            mux.receive(&buffer[..count]);
            while let Some(event) = mux.next_event() {
                self.answer(&mut mux, event);
            }
            let output = mux.output().to_vec();
            if wire.write_all(&output).await.is_err() {
                return;
            }
            mux.sent(output.len());
            while self.does(|process| process.floods) && mux.pong(b"{}").is_ok() {
                let flood = mux.output().to_vec();
                // For as long as anybody listens.
                if wire.write_all(&flood).await.is_err() {
                    return;
                }
                mux.sent(flood.len());
            }
        }
    }

    fn does(&self, what: impl Fn(&SimProcess) -> bool) -> bool {
        let host = self.rooms.look();
        host.processes.get(&self.vmm.pid).is_some_and(what)
    }

    fn state(&self) -> (bool, std::time::Duration) {
        let host = self.rooms.look();
        let process = host.processes.get(&self.vmm.pid);
        let hears = process.is_some_and(|process| !process.hangs && !process.paused);
        (hears, host.latency)
    }

    /// What cannot be encoded is not said: a test then sees a silent guest.
    fn answer(&self, mux: &mut Mux, event: MuxEvent) {
        match event {
            MuxEvent::Hello { hello, .. } => {
                let ack = HelloAck {
                    protocol: PROTOCOL,
                    nonce: hello.nonce,
                    vm_id: self.vm_id.clone(),
                    boot_nonce: self.boot_nonce.clone(),
                    agent_version: "sim".to_owned(),
                };
                let _said = mux.acknowledge(&ack);
            }
            MuxEvent::Ping(payload) => {
                let Ok(ping) = serde_json::from_slice::<Ping>(&payload) else {
                    return;
                };
                let pong = Pong {
                    nonce: ping.nonce,
                    vm_id: self.vm_id.clone(),
                    boot_nonce: self.boot_nonce.clone(),
                };
                if let Ok(payload) = serde_json::to_vec(&pong) {
                    let _said = mux.pong(&payload);
                }
            }
            _ => {}
        }
    }
}
