//! The routes about templates.

use hyper::Method;

use hearth_types::api::Vm;
use hearth_types::template::{CreateFromTemplate, CreateTemplate, Template, TemplateList};

use crate::request::Call;
use crate::{Client, ClientError, Wait};

impl Client {
    /// All templates, by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn templates(&self) -> Result<TemplateList, ClientError> {
        self.fetch(Call::get(&["v1", "templates"])).await
    }

    /// One template.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn template(&self, name: &str) -> Result<Template, ClientError> {
        self.fetch(Call::get(&["v1", "templates", name])).await
    }

    /// Makes a template.
    ///
    /// # Errors
    /// See [`ClientError`]; `Conflict` where the name is taken and it is not to be replaced.
    pub async fn create_template(&self, body: &CreateTemplate) -> Result<Template, ClientError> {
        let call = Call::post(&["v1", "templates"]).json(body)?;
        self.fetch(call).await
    }

    /// Removes a template.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_template(&self, name: &str) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, &["v1", "templates", name]);
        self.send(call).await.map(drop)
    }

    /// Makes a VM of a template. Otherwise as [`Client::create_vm`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_from_template(
        &self,
        template: &str,
        body: &CreateFromTemplate,
        idempotency_key: &str,
        wait: Option<Wait>,
    ) -> Result<Vm, ClientError> {
        let segments = ["v1", "templates", template, "vms"];
        self.create_at(&segments, body, idempotency_key, wait).await
    }
}
