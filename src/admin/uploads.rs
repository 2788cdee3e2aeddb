//! Uploads: a version comes in, is tried, and only then is put in place. What may not serve leaves nothing.

use std::sync::Arc;

use serde_json::json;

use super::versions::{IN_SERVICE, VersionAt, deed, standing_live, target};
use super::{Actor, Admin, AdminError};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::model_store::{ChangeError, InvalidName, PartWriter, Place, Staged, Upload, UploadPart};
use crate::models::{Check, Standing};

/// An upload while its parts come in. Dropped, it leaves nothing.
pub struct Incoming {
    upload: Upload,
    model: ModelId,
    number: VersionNumber,
    dry_run: bool,
}

/// One part of an upload while it comes in.
pub struct IncomingPart<'a>(PartWriter<'a>);

impl Incoming {
    /// Begins the model file.
    ///
    /// # Errors
    /// When there is one already, or the model store cannot be written.
    pub async fn model(&mut self) -> Result<IncomingPart<'_>, AdminError> {
        self.part(UploadPart::Model).await
    }

    /// Begins the version's own `model.toml`.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub async fn manifest(&mut self) -> Result<IncomingPart<'_>, AdminError> {
        self.part(UploadPart::Manifest).await
    }

    /// Begins the version's own `labels.txt`.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub async fn labels(&mut self) -> Result<IncomingPart<'_>, AdminError> {
        self.part(UploadPart::Labels).await
    }

    /// Begins a golden picture or a file of external data, by its name below the version's folder.
    ///
    /// # Errors
    /// When the name could lead elsewhere, or as [`Self::model`].
    pub async fn file(&mut self, name: &str) -> Result<IncomingPart<'_>, AdminError> {
        let read = name.parse();
        let name = read.map_err(|reason: InvalidName| ChangeError::name(name, reason))?;
        self.part(UploadPart::File(name)).await
    }

    async fn part(&mut self, part: UploadPart) -> Result<IncomingPart<'_>, AdminError> {
        Ok(IncomingPart(self.upload.begin(&part).await?))
    }

    /// Gives up; returns once nothing is left of it.
    pub async fn discard(self) {
        self.upload.discard().await;
    }
}

impl IncomingPart<'_> {
    /// Adds a piece; returns once there is room for the next.
    ///
    /// # Errors
    /// When there are too many bytes, the disk is full, or the model store cannot be written.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), AdminError> {
        Ok(self.0.write(piece).await?)
    }

    /// Ends the part.
    ///
    /// # Errors
    /// As [`Self::write`], and when it is not the model file that was announced.
    pub async fn end(self) -> Result<(), AdminError> {
        self.0.end().await?;
        Ok(())
    }
}

/// What came of an upload.
pub enum Uploaded {
    /// The version is new, and live.
    New(VersionAt, Vec<Check>),
    /// The very same version was there, and is live.
    Same(VersionAt),
    /// It was only tried: whether it could serve, and every check.
    Tried(bool, Vec<Check>),
}

impl Admin {
    /// Begins the upload of a version, which in a dry run is only tried; with `expected`, every other model file is
    /// refused.
    ///
    /// # Errors
    /// When there is no such model, too many uploads are under way, the model store cannot be written, or the database is
    /// away, without which nothing could be kept.
    pub async fn begin_upload(
        &self,
        id: &ModelId,
        number: VersionNumber,
        expected: Option<Digest>,
        dry_run: bool,
    ) -> Result<Incoming, AdminError> {
        if !dry_run {
            self.in_force().await?;
        }
        let upload = self.editor.upload(id, number).await?;
        Ok(Incoming {
            upload: upload.expecting(expected),
            model: id.clone(),
            number,
            dry_run,
        })
    }

    /// Tries an upload that is whole and, unless it is a dry run, puts it in place: it is live when this returns.
    ///
    /// # Errors
    /// When it may not serve, another version of the number is there, the model store cannot be written, or the database
    /// is away; nothing of it is left then.
    pub async fn finish_upload(
        self: &Arc<Self>,
        actor: &Actor,
        incoming: Incoming,
    ) -> Result<Uploaded, AdminError> {
        let Incoming {
            upload,
            model,
            number,
            dry_run,
        } = incoming;
        let staged = Arc::new(upload.finish().await?);
        let arrival = Arrival {
            model,
            number,
            staged: Arc::clone(&staged),
        };
        let outcome = if dry_run {
            self.try_out(&arrival).await
        } else {
            self.take_in(actor, &arrival).await
        };
        drop(arrival);
        staged.discard().await;
        outcome
    }

    async fn try_out(&self, arrival: &Arrival) -> Result<Uploaded, AdminError> {
        let number = arrival.number;
        let free = match self.editor.compare(&arrival.staged).await {
            Ok(Place::Free) => place_check(true, format!("version {number} is free")),
            Ok(Place::Same) => {
                place_check(true, format!("version {number} is there, and the same"))
            }
            Err(error @ ChangeError::VersionExists { .. }) => place_check(false, error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let (passed, mut checks) = match self.check(arrival).await {
            Ok(checks) => (true, checks),
            Err(AdminError::Rejected { checks, .. }) => (false, checks),
            Err(error) => return Err(error),
        };
        let ok = passed && free.ok;
        checks.insert(0, free);
        Ok(Uploaded::Tried(ok, checks))
    }

    async fn take_in(
        self: &Arc<Self>,
        actor: &Actor,
        arrival: &Arrival,
    ) -> Result<Uploaded, AdminError> {
        let checks = match self.editor.compare(&arrival.staged).await? {
            // It has passed before, or will say why it does not.
            Place::Same => Vec::new(),
            Place::Free => self.check(arrival).await?,
        };
        let (admin, actor, arrival) = (Arc::clone(self), actor.clone(), arrival.clone());
        self.to_the_end(async move { admin.put_in_service(&actor, &arrival, checks).await })
            .await
    }

    async fn check(&self, arrival: &Arrival) -> Result<Vec<Check>, AdminError> {
        let tried = self.manager.check(&arrival.staged).await;
        tried.map_err(|error| {
            if error.checks.iter().all(|check| check.ok) {
                // It was not the version's fault.
                AdminError::NotNow(error.reason)
            } else {
                AdminError::Rejected {
                    reason: error.reason,
                    checks: error.checks,
                }
            }
        })
    }

    async fn put_in_service(
        &self,
        actor: &Actor,
        arrival: &Arrival,
        checks: Vec<Check>,
    ) -> Result<Uploaded, AdminError> {
        let Arrival {
            model: id,
            number,
            staged,
        } = arrival;
        // That a version was taken out of service once is no word about this one.
        self.wish(actor, id, *number, false).await?;
        let place = {
            let _one = self.changing.lock().await;
            self.editor.place(staged).await?
        };
        let fingerprint = staged.fingerprint();
        let standing = self.manager.settle(id, *number, fingerprint, IN_SERVICE);
        let standing = standing.await;
        if place == Place::Same {
            standing_live(id, *number, standing, checks)?;
            return Ok(Uploaded::Same(self.version(id, *number)?));
        }
        let outcome = match standing_live(id, *number, standing.clone(), checks.clone()) {
            Ok(()) => self.record_upload(actor, arrival).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // Gone is what somebody else has deleted meanwhile.
            if standing != Standing::Gone {
                self.editor
                    .take_out(id, Some(*number))
                    .await?
                    .remove()
                    .await;
                self.gone(id, Some(*number)).await;
            }
            return Err(error);
        }
        let digest = staged.digest().map(|digest| digest.to_string());
        self.tell(
            "version.uploaded",
            &target(id, *number),
            json!({"digest": digest}),
        );
        Ok(Uploaded::New(self.version(id, *number)?, checks))
    }

    async fn record_upload(&self, actor: &Actor, arrival: &Arrival) -> Result<(), AdminError> {
        let staged = &arrival.staged;
        let text = |digest: Option<Digest>| digest.map(|digest| digest.to_string());
        let shown = json!({
            "digest": text(staged.digest()),
            "fingerprint": text(staged.fingerprint()),
            "bytes": staged.bytes(),
        });
        let deed = deed(
            "version.upload",
            &arrival.model,
            arrival.number,
            None,
            Some(shown),
        );
        Ok(self
            .store
            .record(&actor.did(deed, self.clock.now()))
            .await?)
    }
}

/// A whole upload, and where it is to go.
#[derive(Clone)]
struct Arrival {
    model: ModelId,
    number: VersionNumber,
    staged: Arc<Staged>,
}

/// The check of where a version would go.
fn place_check(ok: bool, detail: String) -> Check {
    Check {
        name: "version",
        ok,
        detail,
    }
}
