//! One VM and what one does with it.

use bytes::Bytes;
use futures::TryStreamExt as _;
use hearth_client::{
    ActOptions, Action, Client, ClientError, ExecOutput, ExecSession, LogOptions, WaitCondition,
};
use hearth_types::VmId;
use hearth_types::api::{self, ExecRequest, StopVm, WaitResult};
use hearth_types::spec::VmSpec;
use hearth_types::status::Phase;
use hearth_types::units::Bytes as Size;

use super::template::IMAGE;
use super::{PATIENCE, eventually};

/// A VM that idles; tests change what they need.
pub(crate) fn spec(name: &str) -> VmSpec {
    let mut spec = VmSpec::new(name.parse().unwrap(), IMAGE);
    spec.memory = Size::mib(128);
    spec.command = Some(words(&["sleep", "100000"]));
    spec
}

/// Owned words.
pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A VM of a host.
#[derive(Clone)]
pub(crate) struct Vm {
    client: Client,
    id: VmId,
}

/// What a command in the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Ran {
    /// Its output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

impl Vm {
    pub(super) const fn new(client: Client, id: VmId) -> Self {
        Self { client, id }
    }

    fn reference(&self) -> String {
        self.id.to_string()
    }

    /// What the API says of it.
    pub(crate) async fn look(&self) -> api::Vm {
        self.client.vm(&self.reference()).await.unwrap()
    }

    /// What the checks of its health say.
    pub(crate) async fn health(&self) -> api::VmHealth {
        self.client.vm_health(&self.reference()).await.unwrap()
    }

    /// The VMM's pid.
    pub(crate) async fn pid(&self) -> i32 {
        self.look().await.pid.unwrap()
    }

    /// Waits for a condition, as `hearth wait` does.
    pub(crate) async fn wait(&self, condition: WaitCondition) -> Result<WaitResult, ClientError> {
        self.client
            .wait_vm(&self.reference(), condition, Some(PATIENCE))
            .await
    }

    pub(crate) async fn healthy(&self) {
        self.wait(WaitCondition::Healthy).await.unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> WaitResult {
        self.wait(WaitCondition::Stopped).await.unwrap()
    }

    /// Waits until what the API says of it is as asked.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&api::Vm) -> bool) -> api::Vm {
        eventually(what, || async { Some(self.look().await).filter(&holds) }).await
    }

    pub(crate) async fn phase(&self, phase: Phase) -> api::Vm {
        self.until(phase.as_str(), |vm| vm.phase == phase).await
    }

    pub(crate) async fn act(&self, action: Action) -> Result<api::Vm, ClientError> {
        let options = ActOptions::waiting(Some(PATIENCE));
        self.client.act(&self.reference(), action, &options).await
    }

    pub(crate) async fn stop(&self) -> api::Vm {
        let options = ActOptions::waiting(Some(PATIENCE));
        let stop = StopVm::default();
        self.client
            .stop_vm(&self.reference(), &stop, &options)
            .await
            .unwrap()
    }

    /// Asks for its stop and waits for nothing.
    pub(crate) async fn ask_to_stop(&self) {
        let (stop, options) = (StopVm::default(), ActOptions::default());
        self.client
            .stop_vm(&self.reference(), &stop, &options)
            .await
            .unwrap();
    }

    /// Asks for its removal and waits for nothing.
    pub(crate) async fn ask_to_remove(&self) {
        let options = ActOptions::default();
        self.client
            .delete_vm(&self.reference(), true, &options)
            .await
            .unwrap();
    }

    pub(crate) async fn remove(&self) {
        let options = ActOptions::waiting(Some(PATIENCE));
        self.client
            .delete_vm(&self.reference(), true, &options)
            .await
            .unwrap();
    }

    /// Runs a shell line in the guest.
    pub(crate) async fn sh(&self, line: &str) -> Ran {
        self.exec(request(&["sh", "-c", line]), &[]).await.unwrap()
    }

    /// Runs a shell line in the guest that must succeed.
    pub(crate) async fn must(&self, line: &str) -> String {
        let ran = self.sh(line).await;
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
        ran.text()
    }

    /// Runs a command in the guest with this standard input.
    pub(crate) async fn exec(
        &self,
        request: ExecRequest,
        input: &[u8],
    ) -> Result<Ran, ClientError> {
        let session = self.client.exec(&self.reference(), &request).await?;
        let (mut writer, mut reader) = (session.writer, session.reader);
        let feed = async {
            for chunk in input.chunks(64 << 10) {
                writer.stdin(chunk).await?;
            }
            if request.stdin {
                writer.close_stdin().await?;
            }
            Ok::<_, ClientError>(())
        };
        let mut ran = Ran {
            code: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let read = async {
            loop {
                match reader.next().await? {
                    ExecOutput::Stdout(bytes) => ran.stdout.extend_from_slice(&bytes),
                    ExecOutput::Stderr(bytes) => ran.stderr.extend_from_slice(&bytes),
                    ExecOutput::Exit(code) => return Ok::<_, ClientError>(code),
                }
            }
        };
        let both = async { tokio::try_join!(feed, read) };
        let (_, code) = tokio::time::timeout(PATIENCE, both)
            .await
            .expect("exec in time")?;
        ran.code = code;
        Ok(ran)
    }

    /// A command in the guest, to be talked to.
    pub(crate) async fn open(&self, request: &ExecRequest) -> ExecSession {
        self.client.exec(&self.reference(), request).await.unwrap()
    }

    /// Everything on its console.
    pub(crate) async fn console(&self) -> String {
        let log = self
            .client
            .logs(&self.reference(), LogOptions::default())
            .await;
        let bytes: Vec<Bytes> = log.unwrap().try_collect().await.unwrap();
        String::from_utf8_lossy(&bytes.concat()).into_owned()
    }

    /// `hearth cp GUEST:PATH -`.
    pub(crate) async fn download(&self, path: &str) -> Vec<u8> {
        self.try_download(path).await.unwrap()
    }

    pub(crate) async fn try_download(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let stream = self.client.download(&self.reference(), path).await?;
        let bytes: Vec<Bytes> = stream.try_collect().await?;
        Ok(bytes.concat())
    }

    /// `hearth cp - GUEST:FOLDER`.
    pub(crate) async fn upload(&self, folder: &str, tar: Vec<u8>) {
        self.try_upload(folder, tar).await.unwrap();
    }

    pub(crate) async fn try_upload(&self, folder: &str, tar: Vec<u8>) -> Result<(), ClientError> {
        let chunks: Vec<_> = tar
            .chunks(100_000)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let stream = futures::stream::iter(chunks);
        self.client.upload(&self.reference(), folder, stream).await
    }

    pub(crate) async fn stats(&self) -> api::VmStats {
        self.client.stats(&self.reference()).await.unwrap()
    }
}

/// A command without wishes.
pub(crate) fn request(argv: &[&str]) -> ExecRequest {
    ExecRequest {
        argv: words(argv),
        env: Default::default(),
        workdir: None,
        user: None,
        tty: None,
        stdin: false,
    }
}
