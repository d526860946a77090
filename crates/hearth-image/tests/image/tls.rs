//! Registries behind TLS, and plain ones that are not on this machine. Needs root,
//! docker-registry, skopeo, umoci and openssl; one test a network namespace.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::path::Path;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_image::{ImageError, ImageStore, Limits, PullRequest};
use hearth_types::api::RegistryAuth;

use crate::common::certificates::{Pair, authority, issued};
use crate::common::content::{layout, request, tar};
use crate::common::registry::{Registry, need, need_tools};
use crate::common::{NoProgress, Store, need_root};

fn ready() -> bool {
    need_root() && need_tools() && need(&["openssl"])
}

/// A registry with this certificate and an image in it.
fn serve(store: &Store, pair: &Pair) -> (Registry, String) {
    let http = format!(
        "  tls: {{certificate: {}, key: {}}}",
        pair.certificate.display(),
        pair.key.display()
    );
    let registry = Registry::with(&http, "");
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &[tar(&[("hello", "world")])]);
    let reference = registry.push(&dir, "v1", "app:1");
    (registry, reference)
}

fn trusting(reference: &str, ca: &Path) -> PullRequest {
    PullRequest {
        ca: Utf8PathBuf::from_path_buf(ca.to_owned()).ok(),
        ..request(reference)
    }
}

/// The message and the advice of a pull that must fail in the handshake.
async fn failure(store: &Store, request: PullRequest) -> (String, String) {
    let error = store.images.pull(request, &NoProgress).await.unwrap_err();
    assert!(matches!(error, ImageError::Tls { .. }), "{error:?}");
    (error.to_string(), error.hint().unwrap())
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_when_named() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let dir = store.dir.path();
    let ours = authority(dir, "ours");
    let theirs = authority(dir, "theirs");
    let pair = issued(dir, &ours, "IP:127.0.0.1", "2");
    let (registry, reference) = serve(&store, &pair);

    for untrusting in [
        request(&reference),
        trusting(&reference, &theirs.certificate),
    ] {
        let (error, hint) = failure(&store, untrusting).await;
        let registry = format!("127.0.0.1:{}", registry.port);
        let expected =
            format!("{registry} shows a certificate of an authority that is not trusted here");
        assert_eq!(error, expected);
        assert!(hint.contains("REGISTRY_CA"), "{hint}");
    }
    assert!(store.image_folders().is_empty());

    // Several authorities in one file.
    let both = dir.join("both.pem");
    let pem = [&theirs, &ours].map(|pair| std::fs::read(&pair.certificate).unwrap());
    std::fs::write(&both, pem.concat()).unwrap();
    let record = store
        .images
        .pull(trusting(&reference, &both), &NoProgress)
        .await
        .unwrap();
    assert_eq!(store.mount(&record.id).read("hello"), b"world");
}

#[tokio::test]
async fn a_certificate_must_be_for_the_host_and_in_date() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let dir = store.dir.path();
    let ours = authority(dir, "ours");
    // Another name, and one that ended before it began.
    for (name, days) in [("DNS:elsewhere.example", "2"), ("IP:127.0.0.1", "-1")] {
        let pair = issued(dir, &ours, name, days);
        let (_registry, reference) = serve(&store, &pair);
        let (error, hint) = failure(&store, trusting(&reference, &ours.certificate)).await;
        assert!(
            error.ends_with("shows a certificate that is not valid for it"),
            "{error}"
        );
        assert!(hint.contains("in date"), "{hint}");
    }
}

#[tokio::test]
async fn a_file_of_authorities_must_hold_some() {
    let store = Store::new();
    let path = store.path("ca.pem");
    let pull = || {
        let request = trusting("localhost:1/app", path.as_std_path());
        store.images.pull(request, &NoProgress)
    };
    let error = pull().await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {path}"));
    std::fs::write(&path, "not a certificate").unwrap();
    let error = pull().await.unwrap_err().to_string();
    assert!(error.contains("has no certificate in PEM form"), "{error}");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(2 << 20)
        .unwrap();
    let error = pull().await.unwrap_err().to_string();
    assert!(error.contains("exceeds the limit"), "{error}");
}

/// Variables that make this program the one in the namespace.
const STORE: &str = "HEARTH_TEST_STORE";
const PLAIN: &str = "HEARTH_TEST_PLAIN";
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Plain HTTP to another machine only when it is asked for; without that, not a byte of it.
#[test]
fn netns_no_plain_http_to_another_machine() {
    if !ready() {
        return;
    }
    for plain in ["no", "yes"] {
        let store = Store::new();
        let output = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "tls::another_machine", "--nocapture"])
            .env(STORE, store.path("inside"))
            .env(PLAIN, plain)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("ALL OF IT RAN"), "{said}");
    }
}

/// Not a test of its own: what happens in the namespace, where an address of the test network
/// (RFC 5737) is ours.
#[tokio::test]
async fn another_machine() {
    let (Ok(store), Ok(plain)) = (std::env::var(STORE), std::env::var(PLAIN)) else {
        return;
    };
    for args in [
        &["link", "set", "lo", "up"][..],
        &["addr", "add", "192.0.2.7/32", "dev", "lo"],
    ] {
        crate::common::registry::run("ip", args);
    }
    let images = ImageStore::open(Utf8Path::new(&store), Limits::default()).unwrap();
    let listener = TcpListener::bind("192.0.2.7:5000").unwrap();
    let (sender, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut first = [0; 5];
            client.read_exact(&mut first).unwrap();
            sender.send(first).unwrap();
            // What Go's servers answer to a handshake; the rest is read, or it would be a reset.
            client.write_all(BAD_REQUEST).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            drop(client.read_to_end(&mut Vec::new()));
        }
    });
    let request = PullRequest {
        plain_http: plain == "yes",
        auth: Some(RegistryAuth {
            username: "alice".to_owned(),
            password: "secret".to_owned(),
        }),
        ..request("192.0.2.7:5000/app:1")
    };
    let error = images.pull(request, &NoProgress).await.unwrap_err();
    let heard: Vec<[u8; 5]> = heard.try_iter().collect();
    assert!(!heard.is_empty());
    if plain == "yes" {
        assert!(heard.iter().all(|first| first == b"GET /"), "{heard:?}");
    } else {
        // Handshakes (RFC 8446, 5.1), nothing else.
        assert!(heard.iter().all(|first| first[..2] == [22, 3]), "{heard:?}");
        assert_eq!(error.to_string(), "192.0.2.7:5000 does not speak TLS");
        assert!(error.hint().unwrap().contains("--plain-http"), "{error:?}");
    }
    println!("ALL OF IT RAN");
}
