//! An image with a program of this host in it.

use camino::{Utf8Path, Utf8PathBuf};

use super::Host;
use super::template::make_image;
use super::tools::{on_path, run};

impl Host {
    /// Imports an image of busybox with this program of the host and the libraries that it
    /// needs; `None`, with a word about it, if it is not installed.
    pub(crate) async fn import_program(&self, name: &str) -> Option<String> {
        let Some(program) = on_path(name) else {
            println!("SKIP: {name} is not installed");
            return None;
        };
        let folder = self.dir().join(format!("image-{name}"));
        let (root, tar) = (folder.join("root"), folder.join("root.tar"));
        for file in libraries(&program).into_iter().chain([program]) {
            let place = root.join(file.strip_prefix("/").unwrap());
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::copy(&file, &place).unwrap();
        }
        let busybox = on_path("busybox").unwrap();
        make_image(&busybox, &root, &tar);
        let reference = format!("{name}:1");
        self.import_image(&tar, &reference).await;
        Some(reference)
    }
}

/// What the loader would load, and the loader itself: words of `ldd` that are paths.
fn libraries(program: &Utf8Path) -> Vec<Utf8PathBuf> {
    let said = run("ldd", &[program.as_str()]);
    let words = said.split_ascii_whitespace();
    let paths = words.filter(|word| word.starts_with('/'));
    paths.map(Utf8PathBuf::from).collect()
}
