//! Whose a device or a process of the kernel's log is, as `/sys` tells without waiting for any device.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_safeguards::{Origin, Whose};
use hearth_types::InstallationId;

use super::Processes;

/// Who owns what.
pub(super) struct Owners {
    sys: Utf8PathBuf,
    /// How uuids of our devices begin.
    mark: String,
    data: Utf8PathBuf,
    processes: Processes,
}

impl Owners {
    pub(super) fn new(installation: InstallationId, data: &Utf8Path, processes: Processes) -> Self {
        Self {
            sys: "/sys".into(),
            mark: format!("HEARTH-{installation}-"),
            data: data.to_owned(),
            processes,
        }
    }

    pub(super) fn whose(&self, origin: &Origin) -> Whose {
        match origin {
            Origin::Dm(minor) => self.dm(*minor),
            Origin::Loop(number) => self.loop_device(*number),
            Origin::Disk(name) => self.disk(name),
            Origin::Process(pid) => match self.processes.read().get(pid) {
                Some(name) => Whose::Volume(format!("VM {name}")),
                None => Whose::Unknown,
            },
            Origin::Nothing => Whose::Unknown,
        }
    }

    fn dm(&self, minor: u32) -> Whose {
        let read = |file: &str| self.read(&format!("block/dm-{minor}/dm/{file}"));
        let (Ok(uuid), Ok(name)) = (read("uuid"), read("name")) else {
            return Whose::Unknown;
        };
        match uuid.strip_prefix(&self.mark) {
            Some("pool" | "pool-data") => Whose::Pool("the pool".to_owned()),
            Some(_) => Whose::Volume(format!("volume {name}")),
            None if self.is_below_pool(&format!("dm-{minor}")) => below_pool(),
            None => Whose::Foreign,
        }
    }

    /// Whether a device, or the disk that it is a part of, is what the pool's data is on.
    fn is_below_pool(&self, name: &str) -> bool {
        let data = format!("{}pool-data", self.mark);
        let Ok(all) = self.sys.join("block").read_dir_utf8() else {
            return false;
        };
        let mut devices = all.flatten().map(|entry| entry.into_path());
        let ours = devices.find(|device| {
            let uuid = std::fs::read_to_string(device.join("dm/uuid"));
            uuid.is_ok_and(|uuid| uuid.trim_end() == data)
        });
        let below = ours.and_then(|device| device.join("slaves").read_dir_utf8().ok());
        below.into_iter().flatten().flatten().any(|slave| {
            let place = slave.path().read_link_utf8();
            let place = place.unwrap_or_else(|_| slave.path().to_owned());
            place.components().any(|part| part.as_str() == name)
        })
    }

    fn loop_device(&self, number: u32) -> Whose {
        match self.read(&format!("block/loop{number}/loop/backing_file")) {
            Ok(file) if Utf8Path::new(&file).starts_with(self.data.join("pool")) => {
                Whose::Pool(file)
            }
            Ok(file) if Utf8Path::new(&file).starts_with(&self.data) => Whose::Volume(file),
            Ok(_) => Whose::Foreign,
            Err(_) => Whose::Unknown,
        }
    }

    /// The disk that the data folder is on: its device's place in `/sys` has the names of the
    /// partition and of the disk in it.
    fn disk(&self, name: &str) -> Whose {
        let Ok(meta) = self.data.metadata() else {
            return Whose::Unknown;
        };
        let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        let link = self.sys.join(format!("dev/block/{major}:{minor}"));
        // A file system without a device, or on several.
        let Ok(place) = link.read_link_utf8() else {
            return Whose::Unknown;
        };
        if place.components().any(|part| part.as_str() == name) {
            Whose::Pool("the disk below the data folder".to_owned())
        } else if self.is_below_pool(name) {
            below_pool()
        } else {
            Whose::Foreign
        }
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let text = std::fs::read_to_string(self.sys.join(path))?;
        Ok(text.trim_end().to_owned())
    }
}

fn below_pool() -> Whose {
    Whose::Pool("the device below the pool".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_processes_are_told_apart_by_what_sys_says() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let data = root.join("data");
        let installation = InstallationId::new();
        let processes = Processes::default();
        processes.write().insert(47, "web".to_owned());
        let mut owners = Owners::new(installation, &data, processes);
        owners.sys = root.join("sys");
        let write = |path: String, text: String| {
            let path = root.join("sys").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text + "\n").unwrap();
        };
        for (minor, uuid) in [
            (0, format!("HEARTH-{installation}-pool")),
            (1, format!("HEARTH-{installation}-7")),
            (2, format!("HEARTH-{}-pool", InstallationId::new())),
            (3, String::new()),
            (4, format!("HEARTH-{installation}-pool-data")),
            (5, "LVM-theirs".to_owned()),
        ] {
            write(format!("block/dm-{minor}/dm/uuid"), uuid);
            write(format!("block/dm-{minor}/dm/name"), format!("name-{minor}"));
        }
        for (number, file) in [
            (0, data.join("pool/hearth-pool-data.img")),
            (1, data.join("vms/x/root.img")),
            (2, root.join("elsewhere.img")),
        ] {
            write(format!("block/loop{number}/loop/backing_file"), file.into());
        }
        std::fs::create_dir_all(&data).unwrap();
        let dev = data.metadata().unwrap().dev();
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        let link = root.join(format!("sys/dev/block/{major}:{minor}"));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("../../devices/pci0/block/sdq/sdq2", link).unwrap();

        let slaves = root.join("sys/block/dm-4/slaves");
        std::fs::create_dir_all(&slaves).unwrap();
        std::os::unix::fs::symlink("../../../pci0/block/sdr/sdr1", slaves.join("sdr1")).unwrap();

        let pool = |what: &str| Whose::Pool(what.to_owned());
        let volume = |what: &str| Whose::Volume(what.to_owned());
        let disk = |name: &str| owners.whose(&Origin::Disk(name.to_owned()));
        assert_eq!(owners.whose(&Origin::Dm(0)), pool("the pool"));
        assert_eq!(owners.whose(&Origin::Dm(1)), volume("volume name-1"));
        assert_eq!(owners.whose(&Origin::Dm(2)), Whose::Foreign);
        assert_eq!(owners.whose(&Origin::Dm(3)), Whose::Foreign);
        assert_eq!(owners.whose(&Origin::Dm(4)), pool("the pool"));
        assert_eq!(owners.whose(&Origin::Dm(5)), Whose::Foreign);
        assert_eq!(owners.whose(&Origin::Dm(6)), Whose::Unknown);
        assert_eq!(disk("sdr"), below_pool());
        assert!(matches!(owners.whose(&Origin::Loop(0)), Whose::Pool(_)));
        assert!(matches!(owners.whose(&Origin::Loop(1)), Whose::Volume(_)));
        assert_eq!(owners.whose(&Origin::Loop(2)), Whose::Foreign);
        assert_eq!(owners.whose(&Origin::Loop(3)), Whose::Unknown);
        assert_eq!(disk("sdq"), pool("the disk below the data folder"));
        assert_eq!(disk("sdq2"), pool("the disk below the data folder"));
        assert_eq!(disk("sd"), Whose::Foreign);
        assert_eq!(owners.whose(&Origin::Process(47)), volume("VM web"));
        assert_eq!(owners.whose(&Origin::Process(48)), Whose::Unknown);
    }
}
