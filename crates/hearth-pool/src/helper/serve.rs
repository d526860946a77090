//! The helper's own part: it hears a call, makes it, answers, until nobody asks any more.

use std::io;
use std::os::unix::net::UnixStream;

use serde::Serialize;

use super::said::Said;
use super::wire::{self, Call, Reply, Request};
use crate::ground::Place;
use crate::thin::{ThinError, ThinGround};

/// Makes calls for those at the other end, one by one. It returns when they are gone, and never in the middle
/// of a call: what was begun is ended, whoever still waits for it.
///
/// # Errors
/// When what they say cannot be understood.
pub fn serve(mut stream: UnixStream, ground: &dyn ThinGround) -> io::Result<()> {
    while let Some(Request { place, call }) = wire::receive(&mut stream)? {
        let reply = match make(ground, &place, call) {
            Ok(done) => Reply::Done(done),
            Err(error) => Reply::Failed(error),
        };
        match wire::send(&mut stream, &reply) {
            // The daemon has ended meanwhile. What was done is done; the next one looks.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            sent => sent?,
        }
    }
    Ok(())
}

fn make(ground: &dyn ThinGround, place: &Place, call: Call) -> Result<serde_json::Value, Said> {
    match call {
        Call::Find => told(ground.find(place)),
        Call::Assemble(layout) => told(ground.assemble(place, &layout)),
        Call::TakeDown => told(ground.take_down(place)),
        Call::Extend(layout) => told(ground.extend(place, &layout)),
        Call::Inspect { device, force } => told(ground.inspect(place, &device, force)),
        Call::Claim { base, force } => told(ground.claim(place, &base, force)),
        Call::Release(base) => told(ground.release(place, &base)),
        Call::HoldMetadata(hold) => told(ground.hold_metadata(place, hold)),
        Call::CreateThin { id } => told(ground.create_thin(place, id)),
        Call::CreateSnapshot { id, origin } => told(ground.create_snapshot(place, id, origin)),
        Call::DeleteThin { id } => told(ground.delete_thin(place, id)),
        Call::SetCount { from, to } => told(ground.set_count(place, from, to)),
        Call::Holds { id } => told(ground.holds(place, id)),
        Call::Activate(target) => told(ground.activate(place, &target)),
        Call::Deactivate { id } => told(ground.deactivate(place, id)),
        Call::Resume { id } => told(ground.resume(place, id)),
        Call::Active => told(ground.active(place)),
        Call::ReserveMetadata => told(ground.reserve_metadata(place)),
        Call::ReleaseMetadata => told(ground.release_metadata(place)),
    }
}

fn told<T: Serialize, E: Into<ThinError>>(done: Result<T, E>) -> Result<serde_json::Value, Said> {
    let done = done.map_err(|error| Said::from(error.into()))?;
    serde_json::to_value(done).map_err(|error| Said::Other(error.to_string()))
}
