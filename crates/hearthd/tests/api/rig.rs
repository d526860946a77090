//! A daemon without its host.

mod agent;
mod kernel;
mod vmm;

use std::collections::BTreeMap;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::FileVolumes;
use hearth_host::process::Condition;
use hearth_image::jobs::Patience;
use hearth_image::{ImageStore, Limits, NoProgress};
use hearth_kernel::{Import, KernelStore, Source};
use hearth_net::{FakeNetwork, NetworkConfig};
use hearth_plan::Policy;
use hearth_pool::fake::FakeGround;
use hearth_pool::{Choice, Place, Pool, ThinVolumes, Thins};
use hearth_store::{LeaseRanges, Store};
use hearth_types::api::{ConfigView, ImportKind, Vm};
use hearth_types::ids::InstallationId;
use hearth_types::observe::{ObservedProcess, ProcessRole};
use hearth_types::process::ProcessIdentity;
use hearth_types::{OwnerMark, VmId};
use hearth_vmm::LogLimits;
use hearthd::api::Api;
use hearthd::api::auth::{Token, Tokens};
use hearthd::engine::{Engine, Parts, Settings, paths::Paths};
use hearthd::host::{Processes, SystemClock};
use hearthd::volumes::StoreLedger;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt as _;

pub(crate) use agent::Agents;
pub(crate) use vmm::RigVmm;

/// How long anything may take; nothing here needs a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The image that every rig has.
pub(crate) const IMAGE: &str = "docker.io/library/small:1";
/// The token of the TCP router.
pub(crate) const TOKEN: &str = "0123456789abcdef-token";
/// The one that opens `/metrics` alone.
pub(crate) const METRICS_TOKEN: &str = "0123456789abcdef-metrics";

/// The daemon's engine and both of its routers.
pub(crate) struct Rig {
    pub(crate) api: Api,
    pub(crate) vmm: Arc<RigVmm>,
    /// What the pool stands on.
    pub(crate) ground: FakeGround,
    pub(crate) dir: Utf8PathBuf,
    stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn vm(&self) -> Vm {
        serde_json::from_value(self.json()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Checks that this is a whole problem document of this kind, and gives it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], format!("urn:hearth:problem:{code}"));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem
    }
}

struct RigProcesses(Arc<RigVmm>);

#[async_trait]
impl Processes for RigProcesses {
    fn boot_id(&self) -> String {
        "fake-boot".to_owned()
    }

    async fn survey(&self, _installation: InstallationId) -> anyhow::Result<Vec<ObservedProcess>> {
        let alive = self.0.fake.alive().into_iter();
        Ok(alive
            .map(|identity| ObservedProcess {
                identity,
                role: ProcessRole::Vmm,
                started_at: jiff::Timestamp::now(),
                suspended: false,
            })
            .collect())
    }

    fn condition(&self, identity: &ProcessIdentity) -> anyhow::Result<Condition> {
        Ok(if self.0.fake.alive().contains(identity) {
            Condition::Runs
        } else {
            Condition::Gone
        })
    }
}

impl Rig {
    /// A daemon with one image and one kernel, its loop running.
    pub(crate) async fn new() -> Self {
        Self::with_disks(Choice::Files).await
    }

    /// The same whose new disks are files, or in a pool.
    pub(crate) async fn with_disks(choice: Choice) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let store = Store::open(dir.join("hearth.db")).unwrap();
        let vmm = Arc::new(RigVmm::default());
        let ground = FakeGround::default();
        let pool = Pool::new(
            Place::new(&dir.join("pool"), store.installation()),
            Arc::new(ground.clone()),
        );
        let ledger = Arc::new(StoreLedger::new(store.clone()));
        let thins = Thins::new(pool.clone(), Arc::new(ground.clone()), ledger);
        let files = Arc::new(FileVolumes::default());
        let disks = Arc::new(ThinVolumes::new(thins.clone(), files, choice));
        let engine = engine(&dir, store, &vmm, disks).await;
        let (stop, stopping) = watch::channel(false);
        let config = Arc::new(ConfigView {
            entries: Vec::new(),
        });
        let jobs = hearthd::image_jobs::open(&engine, &config, Patience::default()).unwrap();
        let api = Api {
            engine: Arc::clone(&engine),
            thins,
            pool,
            jobs,
            config,
            started: Instant::now(),
            stopping: stopping.clone(),
        };
        let mut passes = engine.passes();
        tokio::spawn(engine.run(stopping));
        within("the first pass", passes.wait_for(Option::is_some))
            .await
            .unwrap();
        Self {
            api,
            vmm,
            ground,
            dir,
            stop,
            _folder: folder,
        }
    }

    /// As the daemon does at SIGTERM.
    pub(crate) fn stop_daemon(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn router(&self) -> Router {
        hearthd::api::router(self.api.clone())
    }

    pub(crate) fn token_router(&self) -> Router {
        let tokens = Tokens::new(Token::new(TOKEN), Some(Token::new(METRICS_TOKEN)));
        hearthd::api::router_with_token(self.api.clone(), tokens)
    }

    /// One request, its answer read to the end.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        read(self.router(), request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, Body::empty())).await
    }

    /// What Prometheus reads.
    pub(crate) async fn scrape(&self) -> String {
        let answer = self.get("/metrics").await;
        String::from_utf8(answer.bytes.to_vec()).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        self.send(request(Method::POST, path, body)).await
    }

    pub(crate) async fn put_bytes(&self, path: &str, bytes: Vec<u8>) -> Answer {
        self.send(request(Method::PUT, path, Body::from(bytes)))
            .await
    }

    pub(crate) async fn vm(&self, name: &str) -> Vm {
        self.get(&format!("/v1/vms/{name}")).await.vm()
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(request(Method::DELETE, path, Body::empty()))
            .await
    }

    /// Creates a VM that is stopped.
    pub(crate) async fn create(&self, name: &str) -> Vm {
        self.create_with(name, json!({})).await
    }

    /// Creates a stopped VM with these fields over the usual ones.
    pub(crate) async fn create_with(&self, name: &str, fields: Value) -> Vm {
        let answer = self
            .post("/v1/vms", json!({ "spec": spec(name, fields) }))
            .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.vm()
    }

    /// Creates a VM and waits until it runs.
    pub(crate) async fn running(&self, name: &str) -> Vm {
        self.create(name).await;
        let answer = self
            .post(&format!("/v1/vms/{name}/start?wait=true"), Value::Null)
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.vm()
    }

    /// The folder of a VM.
    pub(crate) fn vm_dir(&self, vm: VmId) -> Utf8PathBuf {
        self.api.engine.paths.vm(vm)
    }

    /// Waits until a VM shows this.
    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Vm) -> bool) -> Vm {
        let mut changes = self.api.engine.changes();
        within(what, async {
            loop {
                changes.mark_unchanged();
                let answer = self.get(&format!("/v1/vms/{name}")).await;
                if answer.status == StatusCode::OK && holds(&answer.vm()) {
                    return answer.vm();
                }
                changes.changed().await.unwrap();
            }
        })
        .await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn engine(
    dir: &Utf8Path,
    store: Store,
    vmm: &Arc<RigVmm>,
    disks: Arc<ThinVolumes>,
) -> Arc<Engine> {
    let network = NetworkConfig {
        bridge: "rig0".to_owned(),
        table: "rig".to_owned(),
        subnet: "10.213.0.0/16".parse().unwrap(),
        domain: "hearth.internal".to_owned(),
        mark: OwnerMark::shared(store.installation()),
        dir: dir.join("network"),
    };
    let images = ImageStore::open(&dir.join("images"), Limits::default()).unwrap();
    import_image(&images, dir).await;
    let kernels = KernelStore::open(dir.join("kernels")).unwrap();
    let file = dir.join("vmlinux");
    std::fs::write(&file, kernel::with_all_drivers("6.1.0-rig")).unwrap();
    kernels
        .import(&Import::new(Source::File(file.into())))
        .unwrap();
    std::fs::create_dir_all(dir.join("vms")).unwrap();
    let parts = Parts {
        images,
        kernels: Arc::new(kernels),
        vmm: vmm.clone(),
        net: Arc::new(FakeNetwork::new(network.clone())),
        disks,
        processes: Arc::new(RigProcesses(vmm.clone())),
        clock: Arc::new(SystemClock),
        guest_segment: Arc::new(Vec::new()),
        store,
    };
    let settings = Settings {
        // Who changes something has to wake the loop.
        policy: Policy {
            resync: Duration::from_secs(3600),
            ..Policy::default()
        },
        leases: LeaseRanges {
            subnet: network.subnet,
            uid_base: 0,
            uid_count: 16,
            cid_base: 3,
        },
        network,
        unprivileged: false,
        console: LogLimits {
            max_bytes: 1 << 20,
            keep: 2,
        },
    };
    Engine::new(parts, settings, Paths::new(dir.to_owned()))
}

/// A raw disk: the kind of image that takes no loop device.
pub(crate) fn raw_disk(path: &Utf8Path) {
    std::fs::File::create(path)
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", path.as_str()])
        .status()
        .unwrap();
    assert!(made.success());
}

async fn import_image(images: &ImageStore, dir: &Utf8Path) {
    let disk = dir.join("small.img");
    raw_disk(&disk);
    images
        .import(&disk, IMAGE, Some(ImportKind::Disk), &NoProgress)
        .await
        .unwrap();
}

/// A specification: the usual fields and these.
pub(crate) fn spec(name: &str, fields: Value) -> Value {
    let mut spec: BTreeMap<String, Value> = BTreeMap::from([
        ("name".to_owned(), json!(name)),
        ("image".to_owned(), json!(IMAGE)),
    ]);
    spec.extend(fields.as_object().unwrap().clone());
    json!(spec)
}

pub(crate) fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .unwrap()
}

/// One request to this router, its answer read to the end.
pub(crate) async fn read(router: Router, request: Request<Body>) -> Answer {
    within("an answer", async {
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            bytes: body.collect().await.unwrap().to_bytes(),
        }
    })
    .await
}

/// What comes, but not too late.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("not after {PATIENCE:?}: {what}"))
}
