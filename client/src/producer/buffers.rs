//! Memory of batches, used again once they are acknowledged: pages fresh from the system cost more than copying into
//! them.

use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

/// Free memory of a producer.
#[derive(Debug)]
pub(crate) struct Buffers {
    free: Mutex<Free>,
    /// Free bytes kept at most.
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<BytesMut>,
    bytes: usize,
}

impl Buffers {
    /// Keeps at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { free: Mutex::default(), bytes_max }
    }

    /// Memory used last (it may still be in the processor's cache), or none yet.
    pub(crate) fn take(&self) -> BytesMut {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = free.buffers.pop().unwrap_or_default();
        free.bytes -= buffer.capacity();
        buffer
    }

    /// Takes memory back, unless somebody still reads it.
    pub(crate) fn give_back(&self, bytes: Bytes) {
        let Ok(mut buffer) = bytes.try_into_mut() else { return };
        buffer.clear();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.bytes + buffer.capacity() <= self.bytes_max {
            free.bytes += buffer.capacity();
            free.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_once_nobody_reads_it_and_only_so_much() {
        let buffers = Buffers::new(3000);
        let mut buffer = buffers.take();
        buffer.resize(2000, 1);
        let area = buffer.as_ptr();
        let bytes = buffer.freeze();
        buffers.give_back(bytes.clone());
        assert_eq!(buffers.take().capacity(), 0, "still read");
        buffers.give_back(bytes);
        buffers.give_back(BytesMut::zeroed(2000).freeze());
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len()), (area, 0));
        assert_eq!(buffers.take().capacity(), 0, "the second was too much");
    }
}
