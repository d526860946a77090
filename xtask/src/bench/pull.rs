//! A root filesystem's image from a registry on loopback into something a VM or a container
//! can be made from: ours beside containerd's `ctr images pull` and skopeo with umoci.

use std::cell::RefCell;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::rig::{Rig, Vmm, until};
use super::unpack::{Volume, layered, layout};
use super::{Case, Context, http, tool, unpack};

const NAME: &str = "bench/rootfs:latest";

/// The image in one layer.
pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    of(context, &layout(context, &unpack::root_fs(context)?)?)
}

/// The image in several layers.
pub(crate) fn layers(context: &Context) -> anyhow::Result<Vec<Case>> {
    of(context, &layered(context, &unpack::root_fs(context)?)?)
}

fn of(context: &Context, layout: &Path) -> anyhow::Result<Vec<Case>> {
    let registry = Registry::serve(context)?;
    let from = format!("oci:{}:latest", layout.display());
    let to = format!("docker://{}", registry.image());
    tool(
        "skopeo",
        ["copy", "--quiet", "--dest-tls-verify=false", &from, &to],
    )?;
    let registry = Rc::new(registry);
    let rig = Rig::new(context, &context.folder.join("rig"), Vmm::Standin)?;
    Ok(vec![
        ours(rig, &registry),
        containerd(context, &registry, "overlayfs"),
        containerd(context, &registry, "native"),
        skopeo_and_umoci(context, &registry),
    ])
}

fn ours(rig: Rig, registry: &Rc<Registry>) -> Case {
    let (rig, registry) = (Rc::new(rig), Rc::clone(registry));
    let after = Rc::clone(&rig);
    Case::new("hearth, on disk when done", move || {
        let text = rig.post("/v1/images/pull", &json!({ "reference": registry.image() }))?;
        let last = text.lines().last().unwrap_or_default();
        ensure!(last.contains(r#""type":"image""#), "the pull says {last}");
        Ok(())
    })
    .before(|| {
        rustix::fs::sync();
        Ok(())
    })
    .after(move || {
        let images = after.get("/v1/images")?;
        for image in images["items"].as_array().into_iter().flatten() {
            let image = &image["image"];
            if image["references"].to_string().contains("bench/rootfs") {
                let id = image["id"].as_str().unwrap_or_default();
                http::ask(&after.socket, "DELETE", &format!("/v1/images/{id}"), None)?;
            }
        }
        Ok(())
    })
}

/// Each sample has a containerd of its own on a file system of its own.
fn containerd(context: &Context, registry: &Rc<Registry>, snapshotter: &'static str) -> Case {
    let volume = Rc::new(Volume::new(context));
    let (before_volume, after_volume) = (Rc::clone(&volume), Rc::clone(&volume));
    let registry = Rc::clone(registry);
    let daemon: Rc<RefCell<Option<Containerd>>> = Rc::default();
    let (before, after) = (Rc::clone(&daemon), daemon);
    let socket = context.folder.join("c.sock");
    let ctr = socket.clone();
    let state = context.folder.join("containerd-state");
    Case::new(format!("ctr images pull, {snapshotter}"), move || {
        let (socket, image) = (ctr.display().to_string(), registry.image());
        let common = ["--address", &socket, "--namespace", "bench"];
        let pull = [
            "images",
            "pull",
            "--plain-http",
            "--snapshotter",
            snapshotter,
        ];
        let output = Command::new("ctr")
            .args(common)
            .args(pull)
            .arg(image)
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctr failed: {}", error.trim());
        Ok(())
    })
    .before(move || {
        before_volume.make()?;
        let daemon = Containerd::serve(&before_volume.mount, &state, &socket)?;
        *before.borrow_mut() = Some(daemon);
        Ok(())
    })
    .after(move || {
        drop(after.borrow_mut().take());
        after_volume.remove()
    })
}

fn skopeo_and_umoci(context: &Context, registry: &Rc<Registry>) -> Case {
    let volume = Volume::new(context);
    let (mount, registry) = (volume.mount.clone(), Rc::clone(registry));
    volume.case("skopeo copy + umoci unpack", move || {
        let layout = mount.join("oci").display().to_string();
        let bundle = mount.join("bundle").display().to_string();
        let from = format!("docker://{}", registry.image());
        let to = format!("oci:{layout}:latest");
        tool(
            "skopeo",
            ["copy", "--quiet", "--src-tls-verify=false", &from, &to],
        )?;
        tool(
            "umoci",
            ["unpack", "--image", &format!("{layout}:latest"), &bundle],
        )
    })
}

/// A process of the bench that ends with it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, or is killed.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

struct Registry {
    port: u16,
    _server: Server,
}

impl Registry {
    fn serve(context: &Context) -> anyhow::Result<Self> {
        // Free a moment ago; a collision is an error below, not a wrong number.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = context.folder.join("registry.yml");
        let root = context.folder.join("registry");
        let text = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: 127.0.0.1:{port} }}\nlog: {{ level: error }}\n",
            root.display()
        );
        std::fs::write(&config, text)?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run docker-registry")?;
        let mut server = Server(child);
        until("the registry answers", || {
            let ended = server.0.try_wait()?;
            ensure!(ended.is_none(), "docker-registry ended");
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        Ok(Self {
            port,
            _server: server,
        })
    }

    fn image(&self) -> String {
        format!("127.0.0.1:{}/{NAME}", self.port)
    }
}

struct Containerd {
    server: Server,
    state: PathBuf,
}

impl Containerd {
    fn serve(root: &Path, state: &Path, socket: &Path) -> anyhow::Result<Self> {
        let config = root.join("config.toml");
        let text = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
            root.join("root").display(),
            state.display(),
            socket.display()
        );
        std::fs::write(&config, text)?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run containerd")?;
        let mut daemon = Self {
            server: Server(child),
            state: state.to_owned(),
        };
        let address = socket.display().to_string();
        until("containerd answers", || {
            let ended = daemon.server.0.try_wait()?;
            ensure!(ended.is_none(), "containerd ended");
            Ok(tool("ctr", ["--address", &address, "version"]).is_ok())
        })?;
        Ok(daemon)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // In the bench's folder, which goes as a whole.
        std::fs::remove_dir_all(&self.state).ok();
    }
}
