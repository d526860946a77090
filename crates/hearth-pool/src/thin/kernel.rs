//! Thin devices on the host's own device-mapper.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::Borrower;
use hearth_dm::thin::{self, Message, thin_table};
use hearth_dm::{Control, Device, DmError, Key, Remove, Suspend};
use hearth_host::command;
use rustix::fs::{CWD, FileType, Gid, Mode, StatVfsMountFlags, Uid, makedev, mknodat, statvfs};

use super::error::ThinError;
use super::ground::{Active, Mapped, Target, ThinGround, Under, id_of, uuid_of};
use crate::error::PoolError;
use crate::ground::Place;
use crate::kernel::HostGround;

/// How long a device that somebody has open for a moment is waited for.
const CLOSE: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

#[async_trait]
impl ThinGround for HostGround {
    fn create_thin(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        say(&open()?, place, Message::CreateThin { id }).map_err(dm("make", id))
    }

    fn create_snapshot(&self, place: &Place, id: u32, origin: u32) -> Result<(), ThinError> {
        let control = open()?;
        let uuid = uuid_of(place, origin);
        let key = Key::Uuid(&uuid);
        let on = match control.info(key) {
            Ok(info) => info.active,
            Err(DmError::Absent { .. }) => false,
            Err(error) => return Err(dm("look at", origin)(error)),
        };
        if !on {
            return snapshot(&control, place, id, origin);
        }
        // From here on it is resumed, whatever happens.
        let made = control
            .suspend(key, Suspend::Flushed)
            .map_err(dm("suspend", origin))
            .and_then(|()| snapshot(&control, place, id, origin));
        match control.resume(key) {
            Ok(_) => made,
            Err(source) => Err(ThinError::NotResumed { origin, source }),
        }
    }

    fn delete_thin(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        let deleted = patiently(&open()?, |control| {
            say(control, place, Message::Delete { id })
        });
        match deleted.map_err(dm("delete", id)) {
            Err(error) if error.is_no_data() => Ok(()),
            deleted => deleted,
        }
    }

    fn set_count(&self, place: &Place, from: u64, to: u64) -> Result<(), ThinError> {
        let message = Message::SetTransactionId { from, to };
        say(&open()?, place, message).map_err(dm("count the change of", 0))
    }

    fn holds(&self, place: &Place, id: u32) -> Result<bool, ThinError> {
        // What can be switched on is there. The name says what it was, should it be left.
        let uuid = uuid_of(place, id);
        let probe = Target {
            id,
            name: format!("{}.{id}", place.name),
            uuid,
            sectors: 1,
        };
        let control = open()?;
        match control.info(Key::Uuid(&probe.uuid)) {
            Ok(info) if info.active => return Ok(true),
            // Its making was cut off before it had a table.
            Ok(_) => remove(&control, place, id)?,
            Err(DmError::Absent { .. }) => {}
            Err(error) => return Err(dm("look at", id)(error)),
        }
        let pool = pool(&control, place)?;
        match put(&control, pool, &probe, false) {
            Ok(()) => remove(&control, place, id).map(|()| true),
            Err(error) if error.is_no_data() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn activate(&self, place: &Place, target: &Target) -> Result<Device, ThinError> {
        let control = open()?;
        let key = Key::Uuid(&target.uuid);
        let pool = pool(&control, place)?;
        let table = thin_table(pool, target.id, target.sectors);
        match control.table(key) {
            Ok((info, lines)) if info.active && !info.suspended && lines == [table] => {
                return Ok(info.device);
            }
            Ok(_) => {
                load(&control, pool, target)?;
                resume(&control, key, target.id)?;
            }
            Err(DmError::Absent { .. }) => put(&control, pool, target, true)?,
            Err(error) => return Err(dm("look at", target.id)(error)),
        }
        let info = control.info(key).map_err(dm("look at", target.id))?;
        Ok(info.device)
    }

    fn deactivate(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        remove(&open()?, place, id)
    }

    fn resume(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        resume(&open()?, Key::Uuid(&uuid_of(place, id)), id)
    }

    fn active(&self, place: &Place) -> Result<Vec<Active>, ThinError> {
        let control = open()?;
        let pool = pool(&control, place).ok();
        let mut found = Vec::new();
        for listed in control.list().map_err(dm("list", 0))? {
            // By the name that it had a moment ago: the uuid in the answer decides.
            let (info, lines) = match control.table(Key::Name(&listed.name)) {
                Ok(answer) => answer,
                Err(DmError::Absent { .. }) => continue,
                Err(error) => return Err(dm("look at", 0)(error)),
            };
            let Some(id) = id_of(place, &info.uuid) else {
                continue;
            };
            let as_told = lines.first().filter(|line| {
                let wanted = pool.map(|pool| thin_table(pool, id, line.length));
                info.active && lines.len() == 1 && wanted.as_ref() == Some(*line)
            });
            found.push(Active {
                id,
                name: listed.name,
                device: info.device,
                users: info.open,
                suspended: info.suspended,
                sectors: as_told.map(|line| line.length),
            });
        }
        Ok(found)
    }

    fn reserve_metadata(&self, place: &Place) -> Result<Device, ThinError> {
        let control = open()?;
        let metadata = below(&control, place)?;
        match say(&control, place, Message::ReserveMetadataSnapshot) {
            // One that a daemon that died has left: nobody reads it any more.
            Err(DmError::Busy { .. } | DmError::Refused { .. }) => {
                self.release_metadata(place)?;
                say(&control, place, Message::ReserveMetadataSnapshot)
            }
            reserved => reserved,
        }
        .map(|()| metadata)
        .map_err(dm("hold still the metadata of", 0))
    }

    fn release_metadata(&self, place: &Place) -> Result<(), ThinError> {
        let control = open()?;
        match say(&control, place, Message::ReleaseMetadataSnapshot) {
            // Nothing was held.
            Ok(()) | Err(DmError::Refused { .. }) => Ok(()),
            Err(error) => Err(dm("let go the metadata of", 0)(error)),
        }
    }

    async fn listed(
        &self,
        _place: &Place,
        metadata: Device,
        deadline: Duration,
    ) -> Result<Vec<Mapped>, ThinError> {
        // The node, not the file: the device does not write through the file's cache.
        let node = std::fs::canonicalize(format!("/sys/dev/block/{metadata}"))
            .ok()
            .and_then(|path| Some(format!("/dev/{}", path.file_name()?.to_str()?)))
            .unwrap_or_else(|| format!("/dev/loop{}", metadata.minor));
        let args = ["-m", "--no-headers", "-o", "DEV,MAPPED_SECTORS", &node];
        let said = command::run("thin_ls", &args, b"", deadline)
            .await
            .map_err(ThinError::List)?;
        parse(&String::from_utf8_lossy(&said))
    }

    fn node(&self, device: Device) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(device.node()).unwrap_or_default()
    }

    fn under(&self, path: &Utf8Path) -> Result<Under, ThinError> {
        match path.symlink_metadata() {
            Ok(meta) if meta.file_type().is_block_device() => Ok(Under::Node(number(meta.rdev()))),
            Ok(_) => Ok(Under::File),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Under::Nothing),
            Err(error) => Err(ThinError::io("look at", path)(error)),
        }
    }

    fn place_node(&self, path: &Utf8Path, device: Device, to: Borrower) -> Result<(), ThinError> {
        let (owner, mode) = to.owner_and_mode();
        match path.symlink_metadata() {
            Ok(meta) if !meta.file_type().is_block_device() => {
                let file = std::io::ErrorKind::AlreadyExists.into();
                return Err(ThinError::io("put a device's node in the place of", path)(
                    file,
                ));
            }
            Ok(meta)
                if number(meta.rdev()) == device
                    && (meta.uid(), meta.gid()) == (owner, owner)
                    && meta.mode() & 0o7777 == mode =>
            {
                return Ok(());
            }
            _ => {}
        }
        make_node(path, device, owner, mode).map_err(ThinError::io("make the node", path))
    }

    fn lacks(&self, folder: &Utf8Path) -> Option<String> {
        if command::find("thin_check").is_none() {
            return Some("thin_check is not installed (thin-provisioning-tools)".to_owned());
        }
        let control = match Control::open() {
            Ok(control) => control,
            Err(error) => return Some(hearth_types::survey::chain(&error)),
        };
        let loaded = control.targets().unwrap_or_default();
        if !loaded.iter().any(|target| target.kind == "thin-pool") && !has_module() {
            return Some("the kernel has no module dm_thin_pool".to_owned());
        }
        match statvfs(folder.as_std_path()) {
            Ok(stat) if stat.f_flag.contains(StatVfsMountFlags::NODEV) => {
                Some(format!("{folder} is mounted with nodev"))
            }
            _ => None,
        }
    }
}

/// Whether the kernel would find the module when it is needed first.
fn has_module() -> bool {
    let folder = format!(
        "/lib/modules/{}",
        rustix::system::uname().release().to_string_lossy()
    );
    ["modules.dep", "modules.builtin"].iter().any(|list| {
        std::fs::read_to_string(format!("{folder}/{list}"))
            .is_ok_and(|text| text.contains("/dm-thin-pool.ko"))
    })
}

fn open() -> Result<Control, ThinError> {
    Ok(Control::open().map_err(PoolError::Unavailable)?)
}

fn dm(operation: &'static str, id: u32) -> impl FnOnce(DmError) -> ThinError {
    move |source| ThinError::Dm {
        operation,
        id,
        source,
    }
}

/// The device that the pool's metadata is on.
fn below(control: &Control, place: &Place) -> Result<Device, ThinError> {
    let (_, lines) = control
        .table(Key::Uuid(&place.uuid))
        .map_err(dm("look below", 0))?;
    let params = lines.first().map_or("", |line| line.params.as_str());
    let below = thin::devices_of(params).ok_or_else(|| ThinError::Garbled {
        line: params.to_owned(),
    });
    below.map(|[metadata, _]| metadata)
}

fn number(rdev: u64) -> Device {
    Device {
        major: rustix::fs::major(rdev),
        minor: rustix::fs::minor(rdev),
    }
}

fn say(control: &Control, place: &Place, message: Message) -> Result<(), DmError> {
    control
        .message(Key::Uuid(&place.uuid), &message.to_string())
        .map(drop)
}

fn snapshot(control: &Control, place: &Place, id: u32, origin: u32) -> Result<(), ThinError> {
    say(control, place, Message::CreateSnapshot { id, origin }).map_err(dm("make", id))
}

/// The pool's own number.
fn pool(control: &Control, place: &Place) -> Result<Device, ThinError> {
    match control.info(Key::Uuid(&place.uuid)) {
        Ok(info) if info.active => Ok(info.device),
        Ok(_) => Err(PoolError::NotWorking {
            state: "unfinished",
        }
        .into()),
        Err(DmError::Absent { .. }) => Err(PoolError::NotWorking { state: "down" }.into()),
        Err(source) => Err(PoolError::Dm {
            operation: "look at",
            source,
        }
        .into()),
    }
}

/// Makes a device with its table, and switches it on. What fails leaves no device behind.
fn put(control: &Control, pool: Device, target: &Target, on: bool) -> Result<(), ThinError> {
    match control.create(&target.name, &target.uuid) {
        Ok(_) => {}
        Err(DmError::Exists { .. }) => {
            return Err(ThinError::Foreign {
                what: format!("a device of others has the name {}", target.name),
            });
        }
        Err(error) => return Err(dm("make a device for", target.id)(error)),
    }
    let key = Key::Uuid(&target.uuid);
    let made = load(control, pool, target).and_then(|()| match on {
        true => resume(control, key, target.id),
        false => Ok(()),
    });
    if made.is_err() {
        // It was made above, by the same uuid, and nobody has seen it. The first error tells more.
        drop(control.remove(key, Remove::WhenClosed));
    }
    made
}

fn load(control: &Control, pool: Device, target: &Target) -> Result<(), ThinError> {
    let table = thin_table(pool, target.id, target.sectors);
    control
        .load(Key::Uuid(&target.uuid), &[table], false)
        .map_err(dm("load the table of", target.id))
}

fn resume(control: &Control, key: Key<'_>, id: u32) -> Result<(), ThinError> {
    control.resume(key).map(drop).map_err(dm("switch on", id))
}

/// Removes our device, by its uuid.
fn remove(control: &Control, place: &Place, id: u32) -> Result<(), ThinError> {
    let uuid = uuid_of(place, id);
    let removed = patiently(control, |control| {
        control.remove(Key::Uuid(&uuid), Remove::Now)
    });
    match removed {
        Ok(()) | Err(DmError::Absent { .. }) => Ok(()),
        Err(error) => Err(dm("switch off", id)(error)),
    }
}

/// Does what is refused for as long as somebody (udev, the kernel's own worker) has a device open.
fn patiently(
    control: &Control,
    attempt: impl Fn(&Control) -> Result<(), DmError>,
) -> Result<(), DmError> {
    let end = Instant::now() + CLOSE;
    loop {
        match attempt(control) {
            Err(DmError::Busy { .. }) if Instant::now() < end => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// Beside its place, and renamed: who opens it finds an old one, or the new one, with its owner.
fn make_node(path: &Utf8Path, device: Device, owner: u32, mode: u32) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    let draft = path.with_file_name(format!(".{name}.node"));
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody has both, the last permissions and the first owner.
    mknodat(
        CWD,
        draft.as_std_path(),
        FileType::BlockDevice,
        Mode::empty(),
        makedev(device.major, device.minor),
    )?;
    rustix::fs::chown(
        draft.as_std_path(),
        Some(Uid::from_raw(owner)),
        Some(Gid::from_raw(owner)),
    )?;
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::chmodat(CWD, draft.as_std_path(), mode, rustix::fs::AtFlags::empty())?;
    std::fs::rename(&draft, path)?;
    let folder = path.parent().unwrap_or_else(|| Utf8Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

/// The lines of `thin_ls`: number and sectors.
pub(crate) fn parse(said: &str) -> Result<Vec<Mapped>, ThinError> {
    said.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut words = line.split_ascii_whitespace();
            let mut word = || words.next()?.parse::<u64>().ok();
            let read = word().zip(word());
            read.and_then(|(id, sectors)| {
                Some(Mapped {
                    id: u32::try_from(id).ok()?,
                    bytes: sectors.checked_mul(thin::SECTOR)?,
                })
            })
            .ok_or_else(|| ThinError::Garbled {
                line: line.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_what_is_none_is_told() {
        let said = "  1     128\n 16777215 0\n\n";
        let read = parse(said).unwrap();
        assert_eq!(
            read,
            [
                Mapped {
                    id: 1,
                    bytes: 65536
                },
                Mapped {
                    id: 16_777_215,
                    bytes: 0
                }
            ]
        );
        for bad in ["DEV MAPPED", "1", "-1 2", "1 18446744073709551615"] {
            assert!(
                matches!(parse(bad), Err(ThinError::Garbled { .. })),
                "{bad:?}"
            );
        }
    }
}
