//! Templates: an image that stays, and defaults for VMs of it.

use hearth_types::names::VmName;
use hearth_types::template::Template;
use rusqlite::params;

use crate::open::corrupt;
use crate::session::Session;
use crate::{Result, StoreError, vms};

/// All of them, by name.
pub(crate) fn read(session: &Session) -> Result<Vec<Template>> {
    let texts: Vec<String> = session.run("read the templates", |conn| {
        conn.prepare_cached("SELECT template FROM templates ORDER BY name")?
            .query_map([], |row| row.get(0))?
            .collect()
    })?;
    let decode = |text: &String| {
        serde_json::from_str(text)
            .map_err(|error| corrupt(&session.path, format!("a template cannot be read: {error}")))
    };
    texts.iter().map(decode).collect()
}

/// Writes a new template, or over the one of its name, which keeps its time of making. Returns
/// what is recorded.
pub(crate) fn put(session: &Session, new: Template, replace: bool) -> Result<Template> {
    let before = read(session)?.into_iter().find(|one| one.name == new.name);
    let template = match before {
        Some(_) if !replace => return Err(StoreError::TemplateNamed { name: new.name }),
        Some(before) => Template {
            changed_at: Some(new.created_at),
            created_at: before.created_at,
            ..new
        },
        None => new,
    };
    let text = vms::encode("the template", &template)?;
    session.run("record the template", |conn| {
        conn.prepare_cached(
            "INSERT INTO templates (name, image, template) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET image = excluded.image, template = excluded.template",
        )?
        .execute(params![
            template.name.as_str(),
            template.image_id.as_str(),
            text
        ])
    })?;
    Ok(template)
}

/// Drops a template; whether there was one.
pub(crate) fn forget(session: &Session, name: &VmName) -> Result<bool> {
    let gone = session.run("forget the template", |conn| {
        conn.prepare_cached("DELETE FROM templates WHERE name = ?1")?
            .execute([name.as_str()])
    })?;
    Ok(gone > 0)
}
