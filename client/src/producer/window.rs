//! How much may be unacknowledged: messages and bytes. Waiting is fair: first come, first served.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The window of a producer.
#[derive(Debug)]
pub(crate) struct Window {
    messages: Semaphore,
    bytes: Semaphore,
    bytes_max: u32,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Not now.
    Full,
    /// Never again.
    Closed,
}

impl Window {
    /// Room for so many messages and bytes.
    pub(crate) fn new(messages_max: usize, bytes_max: usize) -> Self {
        let bytes_max = u32::try_from(bytes_max.max(1)).unwrap_or(u32::MAX);
        Self {
            messages: Semaphore::new(messages_max.clamp(1, Semaphore::MAX_PERMITS)),
            bytes: Semaphore::new(bytes_max as usize),
            bytes_max,
        }
    }

    /// Takes room for a message, or says that there is none.
    pub(crate) fn try_take(&self, content_bytes: usize) -> Result<(), NoRoom> {
        let message = self.messages.try_acquire().map_err(NoRoom::from)?;
        let bytes = self.bytes.try_acquire_many(self.permits(content_bytes)).map_err(NoRoom::from)?;
        message.forget();
        bytes.forget();
        Ok(())
    }

    /// Takes room for a message, waiting for it.
    pub(crate) async fn take(&self, content_bytes: usize, patience: Duration) -> Result<(), NoRoom> {
        let waiting = async {
            let message = self.messages.acquire().await.map_err(|_| NoRoom::Closed)?;
            let bytes =
                self.bytes.acquire_many(self.permits(content_bytes)).await.map_err(|_| NoRoom::Closed)?;
            message.forget();
            bytes.forget();
            Ok(())
        };
        timeout(patience, waiting).await.unwrap_or(Err(NoRoom::Full))
    }

    /// Gives back the room of `messages` messages; `permits` is the sum of [`Window::permits`] of each.
    pub(crate) fn give_back(&self, messages: usize, permits: usize) {
        self.messages.add_permits(messages);
        self.bytes.add_permits(permits);
    }

    /// What a message's bytes count: one larger than the whole window counts as the whole window.
    pub(crate) fn permits(&self, content_bytes: usize) -> u32 {
        u32::try_from(content_bytes).unwrap_or(u32::MAX).min(self.bytes_max)
    }

    /// Takes no more; who waits is told.
    pub(crate) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }
}

impl From<tokio::sync::TryAcquireError> for NoRoom {
    fn from(error: tokio::sync::TryAcquireError) -> Self {
        match error {
            tokio::sync::TryAcquireError::NoPermits => Self::Full,
            tokio::sync::TryAcquireError::Closed => Self::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_nothing_leaks() {
        let window = Window::new(3, 100);
        assert_eq!(window.try_take(60), Ok(()));
        assert_eq!(window.try_take(60), Err(NoRoom::Full));
        assert_eq!(window.try_take(40), Ok(()));
        assert_eq!(window.try_take(0), Ok(()), "the refused one took no message");
        assert_eq!(window.try_take(0), Err(NoRoom::Full));
        window.give_back(3, 100);
        assert_eq!(window.try_take(1_000), Ok(()), "larger than the window: alone");
        assert_eq!(window.try_take(1), Err(NoRoom::Full));
        window.close();
        assert_eq!(window.try_take(0), Err(NoRoom::Closed));
    }

    #[tokio::test]
    async fn waiting_ends_with_room_or_patience() {
        let window = Window::new(1, 10);
        window.try_take(10).unwrap();
        assert_eq!(window.take(1, Duration::from_millis(20)).await, Err(NoRoom::Full));
        let (waited, ()) = tokio::join!(window.take(1, Duration::from_mins(1)), async {
            tokio::task::yield_now().await;
            window.give_back(1, 10);
        });
        assert_eq!(waited, Ok(()));
    }
}
