//! A real registry on the loopback of a host's network namespace, with a login.

use std::process::{Child, Stdio};

use camino::{Utf8Path, Utf8PathBuf};

use super::host::Host;
use super::template::make_image;
use super::tools::{have, run};
use super::{eventually, netns::Netns};

/// In a namespace of its own nobody else has it.
const ADDRESS: &str = "127.0.0.1:5000";
/// Who may pull.
const USER: &str = "alice";
/// What the registry knows of [`Registry::PASSWORD`]: bcrypt at its least cost, as
/// `htpasswd -B` makes it.
const HTPASSWD: &str = "alice:$2y$05$abcdefghijklmnopqrstuuOgwSyxVqRHRojOMnt0MBmexfPfivXXi\n";

/// The registry; it ends with its value.
pub(crate) struct Registry {
    child: Child,
}

impl Registry {
    /// The password of the one who may pull.
    pub(crate) const PASSWORD: &str = "correct horse 8c1f";

    /// Starts it. `None`, with a printed reason, where a tool is missing.
    pub(crate) async fn start(host: &Host) -> Option<Self> {
        if !have(&["docker-registry", "skopeo", "umoci", "curl"]) {
            return None;
        }
        let dir = host.dir().join("registry");
        std::fs::create_dir(&dir).unwrap();
        let (config, passwords) = (dir.join("config.yml"), dir.join("htpasswd"));
        std::fs::write(&passwords, HTPASSWD).unwrap();
        let text = format!(
            "version: 0.1\n\
             log: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {dir}/data}}}}\n\
             http: {{addr: '{ADDRESS}'}}\n\
             auth: {{htpasswd: {{realm: test, path: {passwords}}}}}\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = host
            .netns
            .command("docker-registry")
            .args(["serve", config.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child };
        eventually("an answer of the registry", || async {
            answers(&host.netns).then_some(())
        })
        .await;
        Some(registry)
    }

    /// Makes an image of busybox, these files and these settings (umoci's), and pushes it.
    pub(crate) fn push(
        &self,
        host: &Host,
        name: &str,
        files: &[(&str, &str)],
        settings: &[&str],
    ) -> String {
        let dir = host.dir().join(format!("image-{name}"));
        let (root, tar) = (dir.join("root"), dir.join("root.tar"));
        std::fs::create_dir_all(root.join("bin")).unwrap();
        for (path, content) in files {
            let path = root.join(path);
            std::fs::write(&path, content).unwrap();
            run("chmod", &["0755", path.as_str()]);
        }
        make_image(&busybox(), &root, &tar);
        let layout = dir.join("layout");
        let image = format!("{layout}:v1");
        run("umoci", &["init", "--layout", layout.as_str()]);
        run("umoci", &["new", "--image", &image]);
        let layer = ["raw", "add-layer", "--image", &image, tar.as_str()];
        run("umoci", &layer);
        run(
            "umoci",
            &[&["config", "--image", &image], settings].concat(),
        );
        let reference = format!("{ADDRESS}/{name}:1");
        let login = format!("{USER}:{}", Self::PASSWORD);
        let (from, to) = (format!("oci:{image}"), format!("docker://{reference}"));
        let mut copy = vec!["copy", "-q", "--dest-tls-verify=false"];
        copy.extend(["--dest-creds", &login, &from, &to]);
        host.netns.run("skopeo", &copy);
        reference
    }

    /// A folder with the configuration file that `docker login` leaves behind.
    pub(crate) fn docker_config(host: &Host, name: &str, password: &str) -> Utf8PathBuf {
        let folder = host.dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let login = host.dir().join(format!("{name}.login"));
        std::fs::write(&login, format!("{USER}:{password}")).unwrap();
        let auth = run("base64", &["-w0", login.as_str()]);
        let text = format!(r#"{{"auths":{{"{ADDRESS}":{{"auth":"{auth}"}}}}}}"#);
        std::fs::write(folder.join("config.json"), text).unwrap();
        folder
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn busybox() -> Utf8PathBuf {
    let found = ["/bin/busybox", "/usr/bin/busybox"].map(Utf8Path::new);
    found
        .into_iter()
        .find(|path| path.is_file())
        .unwrap()
        .to_owned()
}

fn answers(netns: &Netns) -> bool {
    let url = format!("http://{ADDRESS}/v2/");
    netns.output("curl", &["-s", &url]).status.success()
}
