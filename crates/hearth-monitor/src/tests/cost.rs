//! A frame's cost follows the screen, not the host.

use super::*;

use crate::view::vms::on_screen;

/// No time is promised; `--no-capture` shows it.
#[test]
fn a_frame_of_many_vms_makes_only_the_rows_on_the_screen() {
    for vms in [1_000, 100_000] {
        let named = |number| vm(number, &format!("vm-{number:06}"), Phase::Running);
        let mut model = model(overview((0..vms).map(named).collect()), 140, 24);
        assert_eq!(on_screen(&model, 13).count(), 12);
        model.update(News::Key(Key::End), at(1));
        assert_eq!(on_screen(&model, 13).count(), 12);
        let began = std::time::Instant::now();
        let frames = 20;
        for _ in 0..frames {
            assert!(frame(&model).contains(&format!(">vm-{:06}", vms - 1)));
        }
        println!("a frame of {vms} VMs: {:?}", began.elapsed() / frames);
    }
}
