//! One call of the device-mapper's ioctl, with a buffer that grows until the answer fits.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{IoctlOutput, Opcode, opcode};

use crate::device::{Device, Info};
use crate::header::{self, Header};

/// The ioctl's group.
const GROUP: u8 = 0xfd;
/// The first buffer for an answer, and the largest one: 16 MiB hold the list of 100,000 devices.
const BUFFER: usize = 16 << 10;
const LARGEST_BUFFER: usize = 16 << 20;

const READONLY: u32 = 1;
const SUSPENDED: u32 = 1 << 1;
const ACTIVE: u32 = 1 << 5;
const INACTIVE: u32 = 1 << 6;
const BUFFER_FULL: u32 = 1 << 8;

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel refused.
    Refused(Errno),
    /// It wants more room for an answer than any answer can need.
    TooLarge,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) header: Header,
    buffer: Vec<u8>,
}

/// Makes the call of this number, again with more room for as long as the answer does not fit.
pub(crate) fn make(
    control: BorrowedFd<'_>,
    number: u8,
    header: &Header,
    data: &[u8],
) -> Result<Answer, Failure> {
    let mut size = BUFFER.max(header::SIZE + data.len());
    while size <= LARGEST_BUFFER {
        let mut buffer = vec![0; size];
        header.write(&mut buffer);
        buffer[header::SIZE..header::SIZE + data.len()].copy_from_slice(data);
        let call = Call {
            number,
            buffer: &mut buffer,
        };
        // SAFETY: the call points to a whole `dm_ioctl` whose data size is the buffer's length,
        // and the kernel writes no further than that.
        unsafe { rustix::ioctl::ioctl(control, call) }.map_err(Failure::Refused)?;
        let header = Header::read(&buffer);
        if header.flags & BUFFER_FULL == 0 {
            return Ok(Answer { header, buffer });
        }
        size *= 4;
    }
    Err(Failure::TooLarge)
}

impl Answer {
    /// What follows the header.
    pub(crate) fn data(&self) -> &[u8] {
        &self.buffer[header::data_range(&self.buffer)]
    }

    /// What the header says of the device.
    pub(crate) fn info(&self) -> Info {
        let header = &self.header;
        let set = |flag: u32| header.flags & flag != 0;
        Info {
            device: Device::decode(header.dev),
            name: header.name.clone(),
            uuid: header.uuid.clone(),
            open: header.open_count.max(0).cast_unsigned(),
            event: header.event_nr,
            suspended: set(SUSPENDED),
            active: set(ACTIVE),
            inactive: set(INACTIVE),
            read_only: set(READONLY),
        }
    }
}

struct Call<'a> {
    number: u8,
    buffer: &'a mut [u8],
}

// SAFETY: the opcode is the device-mapper's own, read and written, with the size of its header; the
// pointer is to a buffer that outlives the call.
unsafe impl rustix::ioctl::Ioctl for Call<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<[u8; header::SIZE]>(GROUP, self.number)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}
