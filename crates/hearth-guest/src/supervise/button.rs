//! The power button: an input device, if the machine has one and its driver is loaded. On
//! machines without one, hosts press Ctrl-Alt-Del instead.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use rustix::system::{RebootCommand, reboot};

use crate::error::{Context, tell};

/// `EV_KEY` and `KEY_…` of linux/input-event-codes.h.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const KEY_DELETE: u16 = 111;
const KEYS_CTRL: [u16; 2] = [29, 97];
const KEYS_ALT: [u16; 2] = [56, 100];
/// `struct input_event`: two longs of time, type, code, value.
const EVENT_LEN: usize = 24;

/// Sends `news` each time a button is pressed.
pub(super) fn watch<T: Copy + Send + 'static>(sender: &Sender<T>, news: T) {
    // Otherwise the kernel itself resets the machine at Ctrl-Alt-Del.
    tell(reboot(RebootCommand::CadOff).context("take over", "Ctrl-Alt-Del"));
    for device in buttons() {
        // Opened here: events count from the opening on.
        let Some(device) = tell(File::open(&device).context("open", device.display())) else {
            continue;
        };
        let sender = sender.clone();
        super::helper("button", move || listen(device, &sender, news));
    }
}

fn buttons() -> Vec<PathBuf> {
    let Ok(inputs) = fs::read_dir("/sys/class/input") else {
        return Vec::new();
    };
    let events = inputs
        .flatten()
        .filter(|input| input.file_name().to_string_lossy().starts_with("event"));
    events
        .filter(|event| {
            let name = fs::read_to_string(event.path().join("device/name")).unwrap_or_default();
            is_button(name.trim())
        })
        .map(|event| Path::new("/dev/input").join(event.file_name()))
        .collect()
}

/// A keyboard says how it is wired: "AT Raw Set 2 keyboard" in Firecracker, "AT Translated Set
/// 2 keyboard" elsewhere.
fn is_button(name: &str) -> bool {
    name == "Power Button" || (name.starts_with("AT ") && name.ends_with(" keyboard"))
}

fn listen<T: Copy>(mut device: File, sender: &Sender<T>, news: T) {
    let mut event = [0_u8; EVENT_LEN];
    let mut keys = Keys::default();
    while device.read_exact(&mut event).is_ok() {
        if keys.pressed(&event) && sender.send(news).is_err() {
            return;
        }
    }
}

/// The keys that are held down and matter.
#[derive(Debug, Default)]
struct Keys {
    ctrl: bool,
    alt: bool,
}

impl Keys {
    /// Takes an event: whether it asks the machine to end.
    fn pressed(&mut self, event: &[u8; EVENT_LEN]) -> bool {
        let kind = u16::from_ne_bytes([event[16], event[17]]);
        let code = u16::from_ne_bytes([event[18], event[19]]);
        let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
        if kind != EV_KEY {
            return false;
        }
        if KEYS_CTRL.contains(&code) {
            self.ctrl = value != 0;
        }
        if KEYS_ALT.contains(&code) {
            self.alt = value != 0;
        }
        value == 1 && (code == KEY_POWER || (code == KEY_DELETE && self.ctrl && self.alt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buttons_by_their_names() {
        for name in [
            "Power Button",
            "AT Raw Set 2 keyboard",
            "AT Translated Set 2 keyboard",
        ] {
            assert!(is_button(name), "{name}");
        }
        assert!(!is_button("Sleep Button") && !is_button("PC Speaker"));
    }

    #[test]
    fn only_the_pressing_of_the_power_key_counts() {
        let mut keys = Keys::default();
        let mut pressed = |code: u8, value: u8| {
            let mut event = [0; EVENT_LEN];
            event[16] = 1;
            event[18] = code;
            event[20] = value;
            keys.pressed(&event)
        };
        assert!(!pressed(116, 0), "released");
        assert!(pressed(116, 1));
        assert!(!pressed(30, 1), "another key");
        assert!(!pressed(111, 1), "only Delete");
        assert!(!pressed(29, 1) && !pressed(56, 1));
        assert!(pressed(111, 1), "Ctrl-Alt-Del");
        assert!(!pressed(29, 0) && !pressed(111, 1), "Ctrl was let go");
        assert!(!Keys::default().pressed(&[0; EVENT_LEN]));
    }
}
