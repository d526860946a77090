//! The routes under `/v1/images` and `/v1/kernels`.

use futures::Stream;
use hyper::Method;
use hyper::header::ACCEPT;
use serde::Serialize;

use hearth_types::api::{
    ImageFromSnapshot, ImageList, ImageView, ImportImage, ImportKernel, KernelList, Progress,
    PullImage,
};
use hearth_types::image::KernelRecord;
use hearth_types::image_job::{ImageJob, ImageJobList, RetryJob};

use crate::lines::ndjson;
use crate::request::Call;
use crate::{Client, ClientError};

impl Client {
    /// All images.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn images(&self) -> Result<ImageList, ClientError> {
        self.fetch(Call::get(&["v1", "images"])).await
    }

    /// One image by reference, id or unique id prefix.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn image(&self, reference: &str) -> Result<ImageView, ClientError> {
        self.fetch(Call::get(&["v1", "images", reference])).await
    }

    /// Removes an image.
    ///
    /// # Errors
    /// See [`ClientError`]; `InUse` when VMs are made from it.
    pub async fn delete_image(&self, reference: &str) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, &["v1", "images", reference]);
        self.send(call).await.map(drop)
    }

    /// Pulls an image. The last item is `Image` or `Failed`; a stream that ends before is broken.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pull_image(
        &self,
        body: &PullImage,
    ) -> Result<impl Stream<Item = Result<Progress, ClientError>> + Send + use<>, ClientError> {
        self.progress(&["v1", "images", "pull"], body).await
    }

    /// Imports an image from a file on the daemon's host. Items as with [`Client::pull_image`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn import_image(
        &self,
        body: &ImportImage,
    ) -> Result<impl Stream<Item = Result<Progress, ClientError>> + Send + use<>, ClientError> {
        self.progress(&["v1", "images", "import"], body).await
    }

    /// Makes an image of the root disk of a snapshot. Items as with [`Client::pull_image`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn image_from_snapshot(
        &self,
        body: &ImageFromSnapshot,
    ) -> Result<impl Stream<Item = Result<Progress, ClientError>> + Send + use<>, ClientError> {
        self.progress(&["v1", "images", "from-snapshot"], body)
            .await
    }

    /// All pulls and imports, the newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn image_jobs(&self) -> Result<ImageJobList, ClientError> {
        self.fetch(Call::get(&["v1", "images", "jobs"])).await
    }

    /// One of them by id, the end of an id, or the image's name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn image_job(&self, job: &str) -> Result<ImageJob, ClientError> {
        self.fetch(Call::get(&["v1", "images", "jobs", job])).await
    }

    /// Stops a pull or import.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn cancel_image_job(&self, job: &str) -> Result<ImageJob, ClientError> {
        let call = Call::post(&["v1", "images", "jobs", job, "cancel"]);
        self.fetch(call).await
    }

    /// Tries a pull or import again. Items as with [`Client::pull_image`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn retry_image_job(
        &self,
        job: &str,
        body: &RetryJob,
    ) -> Result<impl Stream<Item = Result<Progress, ClientError>> + Send + use<>, ClientError> {
        self.progress(&["v1", "images", "jobs", job, "retry"], body)
            .await
    }

    /// All kernels.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kernels(&self) -> Result<KernelList, ClientError> {
        self.fetch(Call::get(&["v1", "kernels"])).await
    }

    /// Imports a kernel. The last item is `Kernel` or `Failed`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn import_kernel(
        &self,
        body: &ImportKernel,
    ) -> Result<impl Stream<Item = Result<Progress, ClientError>> + Send + use<>, ClientError> {
        self.progress(&["v1", "kernels"], body).await
    }

    /// Makes a kernel the default.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_default_kernel(&self, name: &str) -> Result<KernelRecord, ClientError> {
        self.fetch(Call::post(&["v1", "kernels", name, "default"]))
            .await
    }

    /// Removes a kernel.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_kernel(&self, name: &str) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, &["v1", "kernels", name]);
        self.send(call).await.map(drop)
    }

    async fn progress<T: Serialize>(
        &self,
        segments: &[&str],
        body: &T,
    ) -> Result<impl Stream<Item = Result<Progress, ClientError>> + Send + use<T>, ClientError>
    {
        let call = Call::post(segments)
            .header(ACCEPT, "application/x-ndjson")
            .json(body)?;
        let name = call.name();
        Ok(ndjson(name, self.fetch_bytes(call).await?))
    }
}
