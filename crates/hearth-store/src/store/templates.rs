//! Requests about templates.

use hearth_types::names::VmName;
use hearth_types::template::Template;

use super::Store;
use crate::{Result, templates};

impl Store {
    /// Every template, by name.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn templates(&self) -> Result<Vec<Template>> {
        self.request(|session| templates::read(session)).await
    }

    /// Writes a template down, with `replace` in the place of one that has its name. Returns what is
    /// recorded.
    ///
    /// # Errors
    /// [`StoreError::TemplateNamed`](crate::StoreError::TemplateNamed).
    pub async fn put_template(&self, template: Template, replace: bool) -> Result<Template> {
        self.request(move |session| templates::put(session, template, replace))
            .await
    }

    /// Drops a template; whether there was one.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn forget_template(&self, name: VmName) -> Result<bool> {
        self.request(move |session| templates::forget(session, &name))
            .await
    }
}
