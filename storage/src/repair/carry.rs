//! Carrying out what is written in the intent, step by step; each may be done again.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::intent::Intent;
use super::plan::Plan;
use super::rewrite::write_copy;
use super::{RepairError, failed};
use crate::format::{
    FileName, FormatError, LOST_AND_FOUND_DIR, REPAIR_INTENT_FILE, repair_name, segment_name,
};
use crate::io::{ALIGN, Access, Io, IoFile};

/// Does what was planned. Gives the folder in which the files lie that were set aside.
///
/// # Errors
/// When the system says no. Once the intent is written the log stays closed until [`finish`] ends well.
pub async fn carry_out<I: Io>(io: &I, plan: &Plan) -> Result<PathBuf, RepairError> {
    let dir = &plan.place.dir;
    let copy = dir.join(repair_name(plan.intent.segment));
    // Of a repair that ended before its intent was written.
    let _ = io.remove(&copy).await;
    write_copy(io, plan, &copy).await?;
    io.sync_dir(dir).await.map_err(failed(dir, "syncing the folder"))?;
    write_intent(io, dir, &plan.intent).await?;
    act(io, dir, &plan.intent).await
}

/// Finishes a repair that was begun; `None` when there is none.
///
/// # Errors
/// When the system says no, or what was begun cannot be read.
pub async fn finish<I: Io>(io: &I, dir: &Path) -> Result<Option<(Intent, PathBuf)>, RepairError> {
    let Some(intent) = read_intent(io, dir).await? else { return Ok(None) };
    let kept = act(io, dir, &intent).await?;
    Ok(Some((intent, kept)))
}

/// The repair that was begun, if any.
pub(super) async fn read_intent<I: Io>(io: &I, dir: &Path) -> Result<Option<Intent>, RepairError> {
    let path = dir.join(REPAIR_INTENT_FILE);
    let file = match io.open(&path, Access::Read).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path, "opening")(error)),
    };
    let block = file.read_at(0, ALIGN).await.map_err(failed(&path, "reading"))?;
    let intent = Intent::decode(block.as_ref()).map_err(|source| match source {
        FormatError::NewerVersion { found, known, .. } => {
            RepairError::NewerFormat { path: path.clone(), found, known }
        }
        source => RepairError::Intent { path: path.clone(), source },
    })?;
    file.close().await.map_err(failed(&path, "closing"))?;
    Ok(Some(intent))
}

/// The file gets its name when it is whole and synced.
async fn write_intent<I: Io>(io: &I, dir: &Path, intent: &Intent) -> Result<(), RepairError> {
    let path = dir.join(REPAIR_INTENT_FILE);
    let temporary = dir.join(format!("{REPAIR_INTENT_FILE}.tmp"));
    let _ = io.remove(&temporary).await;
    let file = io.open(&temporary, Access::CreateNew).await.map_err(failed(&temporary, "creating"))?;
    let mut block = io.allocate(ALIGN);
    block.as_mut().copy_from_slice(&intent.encode());
    write_whole::<I>(&file, block, 0).await.map_err(failed(&temporary, "writing"))?;
    file.sync().await.map_err(failed(&temporary, "syncing"))?;
    file.close().await.map_err(failed(&temporary, "closing"))?;
    io.rename(&temporary, &path).await.map_err(failed(&path, "renaming to it"))?;
    io.sync_dir(dir).await.map_err(failed(dir, "syncing the folder"))
}

/// A short count is a failed write.
pub(super) async fn write_whole<I: Io>(file: &I::File, buffer: I::Buffer, at: u64) -> std::io::Result<()> {
    let len = buffer.as_ref().len();
    let written = file.write_at(Rc::new(buffer), at).await?;
    if written == len { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

async fn act<I: Io>(io: &I, dir: &Path, intent: &Intent) -> Result<PathBuf, RepairError> {
    let kept = dir.join(LOST_AND_FOUND_DIR);
    io.create_dir(&kept).await.map_err(failed(&kept, "creating the folder"))?;
    io.sync_dir(dir).await.map_err(failed(dir, "syncing the folder"))?;
    let copy = repair_name(intent.segment);
    let entries = io.list(dir).await.map_err(failed(dir, "listing the folder"))?;
    let is_copied = entries.iter().any(|entry| entry.name == copy);
    // Once the copy has its place, everything was set aside before.
    if is_copied {
        let already = io.list(&kept).await.map_err(failed(&kept, "listing the folder"))?;
        for entry in &entries {
            let kept_name = intent.kept_name(&entry.name);
            let takes = match FileName::parse(&entry.name) {
                Some(FileName::Segment(position) | FileName::Index(position)) => intent.takes(position),
                _ => false,
            };
            if takes && !already.iter().any(|known| known.name == kept_name) {
                let from = dir.join(&entry.name);
                io.rename(&from, &kept.join(kept_name)).await.map_err(failed(&from, "setting it aside"))?;
            }
        }
        // First that it is there, then that it is no longer here.
        io.sync_dir(&kept).await.map_err(failed(&kept, "syncing the folder"))?;
        io.sync_dir(dir).await.map_err(failed(dir, "syncing the folder"))?;
        let place = dir.join(segment_name(intent.segment));
        io.rename(&dir.join(copy), &place).await.map_err(failed(&place, "renaming to it"))?;
    }
    io.sync_dir(dir).await.map_err(failed(dir, "syncing the folder"))?;
    let path = dir.join(REPAIR_INTENT_FILE);
    io.remove(&path).await.map_err(failed(&path, "removing"))?;
    io.sync_dir(dir).await.map_err(failed(dir, "syncing the folder"))?;
    Ok(kept)
}
