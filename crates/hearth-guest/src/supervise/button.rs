//! The power button: an input device, if the machine has one and its driver is loaded.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use crate::error::{Context, tell};

/// `EV_KEY` and `KEY_POWER` of linux/input-event-codes.h.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// `struct input_event`: two longs of time, type, code, value.
const EVENT_LEN: usize = 24;

/// Sends `news` each time a button is pressed.
pub(super) fn watch<T: Copy + Send + 'static>(sender: &Sender<T>, news: T) {
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
            name.trim() == "Power Button"
        })
        .map(|event| Path::new("/dev/input").join(event.file_name()))
        .collect()
}

fn listen<T: Copy>(mut device: File, sender: &Sender<T>, news: T) {
    let mut event = [0_u8; EVENT_LEN];
    while device.read_exact(&mut event).is_ok() {
        if pressed(&event) && sender.send(news).is_err() {
            return;
        }
    }
}

fn pressed(event: &[u8; EVENT_LEN]) -> bool {
    let kind = u16::from_ne_bytes([event[16], event[17]]);
    let code = u16::from_ne_bytes([event[18], event[19]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    kind == EV_KEY && code == KEY_POWER && value == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pressing_of_the_power_key_counts() {
        let mut event = [0; EVENT_LEN];
        assert!(!pressed(&event));
        event[16] = 1;
        event[18] = 116;
        assert!(!pressed(&event), "released");
        event[20] = 1;
        assert!(pressed(&event));
        event[18] = 30;
        assert!(!pressed(&event), "another key");
    }
}
