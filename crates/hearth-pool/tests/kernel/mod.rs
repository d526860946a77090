//! What tests on the kernel's own device-mapper begin with.

use hearth_dm::Control;

/// The kernel's device-mapper. `None`, and a word, where there is none or nobody who checks a pool.
pub(crate) fn control() -> Option<Control> {
    let why = match Control::open() {
        Ok(_) if hearth_host::command::find("thin_check").is_none() => {
            "thin_check is not installed".to_owned()
        }
        Ok(control) => return Some(control),
        Err(error) => hearth_types::survey::chain(&error),
    };
    println!("SKIP: {why}");
    None
}
