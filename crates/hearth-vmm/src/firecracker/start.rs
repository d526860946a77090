//! From a specification to a running guest: the shim's request, and what follows the exec.

use camino::Utf8Path;
use hearth_shim::identity::Instance;
use hearth_shim::{AgentSocket, Cage, CagedFile, LAUNCHED, Request as ShimRequest, Stop, Words};
use hearth_types::ids::VmId;
use hearth_types::process::ProcessIdentity;
use hearth_types::survey::chain;

use super::api::{ApiError, Connection, Request};
use super::version::{self, Version};
use super::{AGENT_PORT, NAME, REPORT_PORT, config, kvm, place};
use crate::{Disk, LaunchSpec, VmmError};

/// From an API that is about to listen to a running guest and the mark that says so.
pub(super) async fn configure(
    identity: &ProcessIdentity,
    dir: &Utf8Path,
    requests: Vec<Request>,
) -> Result<(), Option<String>> {
    let said = |error: ApiError| (!error.is_disconnect()).then(|| chain(&error));
    let stream = place::connect_when_ready(identity, dir)
        .await
        .map_err(|error| said(ApiError::Io(error)))?;
    let mut connection = Connection::over(stream);
    for request in requests.iter().chain([&config::start()]) {
        connection.request(request).await.map_err(said)?;
    }
    let mark = dir.join(LAUNCHED);
    std::fs::write(&mark, "").map_err(|error| Some(format!("cannot write {mark}: {error}")))
}

/// What the shim is asked for.
pub(super) fn shim_request(
    spec: &LaunchSpec,
    program: &Utf8Path,
    version: Version,
) -> Result<ShimRequest, VmmError> {
    let kernel = spec.kernel.elf.clone().ok_or_else(|| VmmError::Missing {
        what: "an uncompressed kernel".to_owned(),
        detail: "the kernel of this VM has none, and Firecracker boots no other; import it again"
            .to_owned(),
    })?;
    let file = |name: &str, path, writable| CagedFile {
        name: name.to_owned(),
        path,
        writable,
    };
    let disks = spec
        .disks
        .iter()
        .map(|disk| file(&disk.file, disk.file.clone().into(), !disk.read_only));
    let files = [
        file(config::KERNEL, kernel, false),
        file(config::INITRD, spec.initramfs.clone(), false),
    ];
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let owned = spec
        .disks
        .iter()
        .filter(|disk| !disk.read_only && !disk.lent);
    let lent = spec.disks.iter().filter(|disk| disk.lent);
    Ok(ShimRequest {
        vm: spec.vm,
        mark: spec.mark,
        dir: spec.dir.clone(),
        program: program.to_owned(),
        args: arguments(spec.vm, version),
        files: Vec::new(),
        taps: Vec::new(),
        sockets: Vec::new(),
        owned: owned.map(|disk| disk.file.clone()).collect(),
        lent: lent.map(|disk| disk.file.clone()).collect(),
        user: spec.user,
        groups: kvm::groups(),
        oom_score: None,
        core_bytes: spec.crash_dump.core_bytes(),
        console_bytes: spec.console.max_bytes,
        console_keep: spec.console.keep,
        max_millis: None,
        driver: Some(NAME.to_owned()),
        caller: Instance::of(own).ok().flatten(),
        cage: Some(Cage {
            files: files.into_iter().chain(disks).collect(),
            devices: ["kvm"]
                .into_iter()
                .chain(spec.nic.iter().map(|_| "net/tun"))
                .map(str::to_owned)
                .collect(),
            log: Some(place::LOG_PIPE.to_owned()),
            metrics: Some(place::METRICS_PIPE.to_owned()),
            report: Some(format!("{}_{REPORT_PORT}", place::VSOCK_SOCKET)),
        }),
        stop: Some(stop(spec)),
    })
}

/// How the guest is asked to go down by its shim.
fn stop(spec: &LaunchSpec) -> Stop {
    Stop {
        patience_millis: u64::try_from(spec.stop_timeout.as_millis()).unwrap_or(u64::MAX),
        agent: Some(AgentSocket {
            socket: place::VSOCK_SOCKET.to_owned(),
            vsock_port: Some(AGENT_PORT),
        }),
        words: vec![Words {
            name: "SendCtrlAltDel".to_owned(),
            socket: place::API_SOCKET.to_owned(),
            text: config::ctrl_alt_del().text(),
            until: "HTTP/1.1 ".to_owned(),
            answers: 1,
        }],
    }
}

fn arguments(vm: VmId, version: Version) -> Vec<String> {
    let run = hearth_shim::CAGE_RUN;
    let mut args = vec![
        "--api-sock".to_owned(),
        format!("{run}/{}", place::API_SOCKET),
        "--id".to_owned(),
        vm.to_string(),
        "--log-path".to_owned(),
        format!("{run}/{}", place::LOG_PIPE),
        "--level".to_owned(),
        "Warn".to_owned(),
    ];
    if version >= version::OLDEST {
        args.push("--enable-pci".to_owned());
    }
    args
}

/// The serial of a disk: Firecracker makes it of the file's numbers, and no other can be
/// given to it.
pub(super) fn serial(dir: &Utf8Path, disk: &Disk) -> Result<String, VmmError> {
    use std::os::unix::fs::MetadataExt as _;
    /// `VIRTIO_BLK_ID_BYTES` of linux/virtio_blk.h.
    const LENGTH: usize = 20;
    let path = dir.join(&disk.file);
    let meta = std::fs::metadata(&path).map_err(|source| VmmError::Io {
        operation: "examine",
        path,
        source,
    })?;
    let mut serial = format!("{}{}{}", meta.dev(), meta.rdev(), meta.ino());
    serial.truncate(LENGTH);
    Ok(serial)
}
