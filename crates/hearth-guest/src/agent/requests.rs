//! The host's requests, one function each.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hearth_guest_proto::config::InitMode;
use hearth_guest_proto::message::{
    ErrorCode, ExecRequest, GuestDisk, GuestReport, GuestStat, PathKind, Request, Response,
    ShutdownKind, StreamReply,
};

use super::exec::{Exec, Kind};
use super::session::Session;
use super::system;
use crate::error::Failure;
use crate::spawn::{Launch, Refusal, pairs};

impl Session {
    pub(super) fn request(&mut self, stream: u32, payload: &[u8]) {
        let outcome = match serde_json::from_slice::<Request>(payload) {
            Ok(request) => self.serve_request(stream, request),
            Err(error) => {
                let message = format!("the request cannot be understood: {error}");
                Err(Refusal::new(ErrorCode::Unsupported, message))
            }
        };
        match outcome {
            Ok(Some(response)) => {
                self.reply(stream, &StreamReply::Done { response });
                self.mux.close(stream);
            }
            Ok(None) => {}
            Err(refusal) => self.mux.reset(stream, refusal.code, &refusal.message),
        }
    }

    /// `None`: the stream goes on as a program.
    fn serve_request(
        &mut self,
        stream: u32,
        request: Request,
    ) -> Result<Option<Response>, Refusal> {
        match request {
            Request::Exec(request) => self.exec(stream, request).map(|()| None),
            Request::CopyIn { path } => self.copy(stream, "tar-in", path).map(|()| None),
            Request::CopyOut { path } => self.copy(stream, "tar-out", path).map(|()| None),
            Request::Stat { path } => stat(&path).map(|stat| Some(Response::Stat(stat))),
            Request::Metrics => Ok(Some(Response::Metrics(system::metrics()))),
            Request::Info => Ok(Some(Response::Info(system::info(&self.config)))),
            Request::Shutdown { timeout_ms, kind } => self.shutdown(timeout_ms, kind),
            Request::Freeze { max_ms } => {
                self.demand_power()?;
                let volumes = self
                    .config
                    .volumes
                    .iter()
                    .filter(|volume| !volume.read_only);
                let mounts = std::iter::once("/".to_owned())
                    .chain(volumes.map(|volume| volume.mount.clone()))
                    .collect();
                self.freezer.freeze(mounts, Duration::from_millis(max_ms))?;
                Ok(Some(Response::Ok))
            }
            Request::GrowVolume { mount } => self.grow_volume(&mount).map(Some),
            Request::Thaw => {
                self.demand_power()?;
                self.freezer.thaw()?;
                Ok(Some(Response::Ok))
            }
            Request::SetClock { wall_clock_ms } => {
                self.demand_power()?;
                crate::boot::set_clock(wall_clock_ms)
                    .map_err(|failure| Refusal::new(ErrorCode::Failed, failure.to_string()))?;
                Ok(Some(Response::Ok))
            }
        }
    }

    fn grow_volume(&self, mount: &str) -> Result<Response, Refusal> {
        self.demand_power()?;
        let mut volumes = self.config.volumes.iter();
        let Some(volume) = volumes.find(|volume| volume.mount == mount) else {
            let message = format!("no volume is mounted at {mount:?}");
            return Err(Refusal::new(ErrorCode::NotFound, message));
        };
        let bytes = crate::boot::grow_volume(volume);
        let bytes = bytes.map_err(|error| Refusal::new(ErrorCode::Failed, error.to_string()))?;
        Ok(Response::Disk(GuestDisk { bytes }))
    }

    fn demand_power(&self) -> Result<(), Refusal> {
        if self.privileged {
            return Ok(());
        }
        Err(Refusal::new(
            ErrorCode::Unsupported,
            "this agent has no power over its machine",
        ))
    }

    fn exec(&mut self, stream: u32, request: ExecRequest) -> Result<(), Refusal> {
        let mut env = pairs(&self.config.process.env);
        env.extend(request.env);
        let launch = Launch {
            argv: request.argv,
            env,
            workdir: request
                .workdir
                .or_else(|| self.config.process.workdir.clone()),
            user: request.user.or_else(|| self.config.process.user.clone()),
            hostname: self.config.hostname.clone(),
            tty: request.tty.is_some(),
            make_workdir: false,
        };
        let hears = request.stdin || request.tty.is_some();
        let kind = if hears {
            Kind::Interactive
        } else {
            Kind::Plain
        };
        let exec = Exec::start(stream, kind, &launch, request.stdin, request.tty)?;
        self.started(stream, exec);
        Ok(())
    }

    /// A copy is this program, started again: it can be killed without a trace here.
    fn copy(&mut self, stream: u32, mode: &str, path: String) -> Result<(), Refusal> {
        if !path.starts_with('/') {
            return Err(Refusal::new(
                ErrorCode::Invalid,
                format!("{path:?} is not an absolute path"),
            ));
        }
        let input = mode == "tar-in";
        let found = if input {
            std::fs::metadata(&path)
        } else {
            std::fs::symlink_metadata(&path)
        };
        let found = found.map_err(|error| refuse_path(&path, &error))?;
        if input && !found.is_dir() {
            return Err(Refusal::new(
                ErrorCode::Invalid,
                format!("{path} is not a folder"),
            ));
        }
        let launch = Launch {
            argv: vec!["/proc/self/exe".to_owned(), mode.to_owned(), path],
            ..Launch::default()
        };
        let exec = Exec::start(stream, Kind::Copy, &launch, input, None)?;
        self.started(stream, exec);
        Ok(())
    }

    fn started(&mut self, stream: u32, exec: Exec) {
        self.reply(
            stream,
            &StreamReply::Started {
                pid: exec.pid.as_raw_nonzero().get(),
            },
        );
        self.execs.push(exec);
    }

    fn shutdown(
        &mut self,
        timeout_ms: u64,
        kind: ShutdownKind,
    ) -> Result<Option<Response>, Refusal> {
        self.demand_power()?;
        if self.config.init == InitMode::Hearth && self.supervisor.is_none() {
            let deaf = "PID 1 does not listen";
            return Err(Refusal::new(ErrorCode::Failed, deaf));
        }
        // A frozen root would hold the shutdown up.
        let _thawed = self.freezer.thaw();
        self.going_down = Some((timeout_ms, kind));
        Ok(Some(Response::Ok))
    }

    /// Begins the shutdown that was agreed to. The answer is on its way by now: what PID 1
    /// does next may end this process at once.
    pub(super) fn go_down_if_asked(&mut self, now: Instant) {
        let Some((timeout_ms, kind)) = self.going_down.take() else {
            return;
        };
        let asked = match (self.config.init, &mut self.supervisor) {
            (InitMode::Hearth, Some(supervisor)) => ask_supervisor(supervisor, timeout_ms, kind),
            (InitMode::Hearth, None) => return,
            (InitMode::Image, _) => {
                report_shutdown();
                let at = now + Duration::from_millis(timeout_ms);
                self.force_off_at = Some((at, kind));
                system::ask_init(crate::machine::ending(kind))
            }
        };
        if let Err(error) = asked {
            crate::error::say(&Failure::new("ask", "PID 1 to go down", error));
            self.force_off_at = Some((now, kind));
        }
    }

    pub(super) fn force_off_if_due(&mut self, now: Instant) {
        if let Some((at, kind)) = self.force_off_at
            && at <= now
        {
            self.force_off_at = None;
            crate::supervise::go_down(kind);
        }
    }
}

fn ask_supervisor(
    supervisor: &mut UnixStream,
    timeout_ms: u64,
    kind: ShutdownKind,
) -> Result<(), String> {
    let request = Request::Shutdown { timeout_ms, kind };
    let mut line = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
    line.push(b'\n');
    supervisor
        .write_all(&line)
        .map_err(|error| error.to_string())
}

/// The image's init writes no report: that its end was asked for is known here alone.
fn report_shutdown() {
    let report = GuestReport {
        exit: None,
        reason: "shutdown".to_owned(),
        message: None,
    };
    crate::error::tell(crate::supervise::send_report(&report));
}

fn refuse_path(path: &str, error: &std::io::Error) -> Refusal {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => ErrorCode::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorCode::NotPermitted,
        _ => ErrorCode::Failed,
    };
    Refusal::new(code, format!("{path}: {error}"))
}

fn stat(path: &str) -> Result<GuestStat, Refusal> {
    let found = std::fs::symlink_metadata(path).map_err(|error| refuse_path(path, &error))?;
    let kind = match found.file_type() {
        kind if kind.is_file() => PathKind::File,
        kind if kind.is_dir() => PathKind::Directory,
        kind if kind.is_symlink() => PathKind::Symlink,
        _ => PathKind::Other,
    };
    let link_target = std::fs::read_link(path).ok();
    Ok(GuestStat {
        kind,
        mode: found.mode() & 0o7777,
        size: found.len(),
        mtime: found.mtime(),
        link_target: link_target.map(|target| target.to_string_lossy().into_owned()),
        leads_to_directory: std::fs::metadata(path).is_ok_and(|found| found.is_dir()),
    })
}
