//! The files of retired segments go: index first, oldest segment first, the folder synced after each.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use super::CommitLog;
use super::retire::RetainError;
use super::segments::Segment;
use crate::format::{FileName, index_name, prep_name, segment_name};
use crate::io::{Io, IoFile};
use crate::types::Position;

impl<I: Io> CommitLog<I> {
    /// Removes the files of retired segments, oldest first; one may be kept to be used again.
    pub(super) async fn remove_gone(&self, may_recycle: bool) -> Result<(), RetainError> {
        loop {
            let gone = self.inner.core.borrow().retiring.gone.front().copied();
            let Some(gone) = gone else { return Ok(()) };
            self.remove_files(&gone, may_recycle).await?;
            self.inner.core.borrow_mut().retiring.gone.pop_front();
        }
    }

    async fn remove_files(&self, gone: &Segment, may_recycle: bool) -> Result<(), RetainError> {
        let position = gone.header.position;
        self.inner.indexes.forget(position);
        let index = self.inner.dir.join(index_name(position));
        self.remove_if_there(index).await?;
        let is_free = self.let_go_of(position).await;
        let path = self.inner.dir.join(segment_name(position));
        if may_recycle && is_free && self.inner.core.borrow().wants_spare(gone) {
            let spare = self.inner.dir.join(prep_name(position.0));
            let renamed = self.inner.io.rename(&path, &spare).await;
            renamed.map_err(|source| RetainError::Io { path, action: "renaming", source })?;
            if let Err(error) = self.sync_folder().await {
                // Its old name may come back with a crash: it cannot be used again.
                let _ = self.inner.io.remove(&spare).await;
                return Err(error);
            }
            self.inner.core.borrow_mut().spare = Some(gone.header);
            return Ok(());
        }
        self.remove_if_there(path).await?;
        self.sync_folder().await
    }

    /// Closes the file of a segment, unless a reader is in the middle of it; whether nobody can be reading it.
    async fn let_go_of(&self, position: Position) -> bool {
        let Some(file) = self.inner.reads.forget_file(position) else { return self.inner.reads.is_idle() };
        match Rc::try_unwrap(file) {
            Ok(file) => {
                let _ = file.close().await;
                self.inner.reads.is_idle()
            }
            // It is closed when the reader is done.
            Err(_) => false,
        }
    }

    async fn remove_if_there(&self, path: PathBuf) -> Result<(), RetainError> {
        match self.inner.io.remove(&path).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RetainError::Io { path, action: "removing", source })
            }
            _ => Ok(()),
        }
    }

    async fn sync_folder(&self) -> Result<(), RetainError> {
        let synced = self.inner.io.sync_dir(&self.inner.dir).await;
        synced.map_err(|source| RetainError::Io { path: self.inner.dir.clone(), action: "syncing", source })
    }

    /// Once after opening: removes index files of segments that were retired, which a reader may have made again.
    pub(super) async fn sweep(&self) -> Result<(), RetainError> {
        if self.inner.core.borrow().retiring.swept {
            return Ok(());
        }
        let dir = &self.inner.dir;
        let listed = self.inner.io.list(dir).await;
        let files =
            listed.map_err(|source| RetainError::Io { path: dir.clone(), action: "listing", source })?;
        let kept = self.inner.core.borrow().kept;
        for file in files {
            if let Some(FileName::Index(position)) = FileName::parse(&file.name)
                && position < kept
            {
                self.remove_if_there(dir.join(file.name)).await?;
            }
        }
        self.inner.core.borrow_mut().retiring.swept = true;
        Ok(())
    }
}
