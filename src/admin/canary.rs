//! Canaries: what was counted goes to the store, and one replica of all decides what follows from it; operators decide at any
//! time.
//!
//! Of several replicas the one with the lease looks. Whoever decides, the store takes a decision only about the canary as it was
//! when the figures were read: none is made twice, and none over an operator's head. While the store is away, nothing moves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::actor::Deed;
use super::rollouts::{shown, target};
use super::{Actor, Admin, AdminError, mark_of_rollout, still};
use crate::callbacks::News;
use crate::domain::callback::EventKind;
use crate::domain::ids::ModelId;
use crate::domain::rollout::{
    ArmFigures, ArmLabels, Canary, CanaryState, Figures, Order, Rollout, Rule, Verdict,
};
use crate::store::{RolloutChange, StoreError, Telling};
use crate::telemetry::trace::{self, Work};

/// How often counts go to the store, and canaries are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the lease outlives a replica that is gone.
const LEASE: TimeDelta = TimeDelta::seconds(5);

/// Reading the labels takes this part of the time at most.
const LABELS_PART: u32 = 10;

/// A canary of a model, as it was looked at.
struct Looked<'a> {
    model: &'a ModelId,
    rollout: &'a Rollout,
    canary: &'a Canary,
}

/// What was read of labels, and when they are read again.
#[derive(Default)]
struct Labels {
    /// By run.
    known: BTreeMap<Uuid, (Instant, ArmLabels)>,
}

/// What the arms of a canary did until now, over all replicas.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The baseline, at the canary's step.
    pub baseline: ArmFigures,
    /// The candidate, at its step.
    pub candidate: ArmFigures,
    /// What it waits for; nothing where it is at its end, or about to move.
    pub waits_for: Vec<String>,
}

impl Admin {
    /// Takes counts to the store and decides what follows, until `stop`; then what was counted goes there once more.
    pub async fn decide_canaries(self: Arc<Self>, stop: CancellationToken) {
        let (mut labels, mut told) = (Labels::default(), HashMap::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.tally.flush(&*self.store).await {
                tracing::debug!(%error, "what rollouts are judged by waits for the store");
                continue;
            }
            self.look_at_canaries(&mut labels, &mut told).await;
        }
        if let Err(error) = self.tally.flush(&*self.store).await {
            tracing::warn!(%error, "what rollouts are judged by was not told to the store at the end");
        }
    }

    /// Looks at each canary, where it is this replica's turn. One that cannot be looked at does not keep the others from it.
    async fn look_at_canaries(&self, labels: &mut Labels, told: &mut HashMap<Uuid, CanaryState>) {
        let catalog = self.manager.catalog().load();
        let models = catalog.models.values();
        let canaries = models.filter_map(|model| Some((model, model.rollout.canary()?)));
        let mut runs = HashSet::new();
        for (model, canary) in canaries {
            runs.insert(canary.run);
            let looked = Looked {
                model: &model.id,
                rollout: &model.rollout,
                canary,
            };
            let state = canary.stage.state;
            let outcome = if canary.is_open() {
                self.judge(&looked, labels).await
            } else if told.get(&canary.run) == Some(&state) {
                Ok(())
            } else {
                let ended = self.tell_of_end(&model.id, canary).await;
                ended
                    .map(|()| _ = told.insert(canary.run, state))
                    .map_err(AdminError::from)
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, model = %model.id, "a canary stays where it is");
            }
        }
        labels.known.retain(|run, _| runs.contains(run));
        told.retain(|run, _| runs.contains(run));
    }

    /// Decides about a canary, where this replica is the one that does, and its decision could be put in force.
    async fn judge(&self, looked: &Looked<'_>, labels: &mut Labels) -> Result<(), AdminError> {
        let (canary, now) = (looked.canary, self.clock.now());
        let lease = format!("canary of {}", looked.model);
        let until = now + LEASE;
        if !self
            .store
            .take_lease(&lease, self.replica, now, until)
            .await?
        {
            return Ok(());
        }
        let labelled = self.labels_of(looked, labels).await;
        // Errors and times are guarded also where labels take too long to count; but nothing moves on unlooked at.
        let (are_known, labelled) = (labelled.is_ok(), labelled.unwrap_or_default());
        let figures = Figures {
            steps: self.store.canary_steps(canary.run).await?,
            labelled,
        };
        let (arms, verdict) = judged(canary, &figures);
        self.looks.note(looked.model, canary, arms.clone());
        // Traffic goes to what answers, or stays where it is.
        let (after, to) = match verdict {
            Verdict::Wait(_) => return Ok(()),
            Verdict::MoveOn(_) if !are_known => return Ok(()),
            Verdict::MoveOn(reason) => (canary.moved_on(&reason, now), canary.candidate),
            Verdict::RollBack(reason) => (canary.rolled_back(&reason, now), canary.baseline),
        };
        self.check_live(looked.model, "rollout", to).await?;
        let (actor, work) = (Actor::program("canary"), Work::named("decide canary"));
        let decided = trace::work(work, async {
            trace::model(looked.model);
            self.decide(&actor, looked, after, &arms).await
        });
        match decided.await {
            // An operator came before, or another replica: what they said holds.
            Err(AdminError::Stale) => self.in_force().await,
            outcome => outcome,
        }
    }

    /// Puts a decision in force, if the canary is as it was when it was looked at.
    async fn decide(
        &self,
        actor: &Actor,
        looked: &Looked<'_>,
        after: Canary,
        arms: &Standing,
    ) -> Result<(), AdminError> {
        let aliases = after.moved_aliases(looked.canary);
        let (kind, action) = named(looked.canary, &after);
        let about = json!({
            "run": after.run,
            "state": after.stage.state.as_str(),
            "step": after.stage.step,
            "share": after.share(),
            "reason": after.stage.reason,
            "figures": arms.json(),
        });
        let next = Rollout {
            rule: Rule::Canary(Box::new(after.clone())),
            shadow: looked.rollout.shadow,
        };
        let mut entered = shown(&next);
        if let Some(entered) = entered.as_object_mut() {
            entered.insert("figures".to_owned(), arms.json());
        }
        let deed = Deed {
            action,
            target: target(looked.model),
            before: Some(shown(looked.rollout)),
            after: Some(entered),
        };
        let change = RolloutChange {
            before: looked.rollout,
            after: &next,
            aliases: &aliases,
        };
        let entry = actor.did(deed, self.clock.now());
        self.store
            .put_rollout(looked.model, &change, &entry)
            .await?;
        self.in_force().await?;
        let decision = action.strip_prefix("rollout.").unwrap_or(action);
        self.metrics
            .rollout_decided(looked.model.as_str(), decision);
        self.looks.note(looked.model, &after, arms.clone());
        tracing::info!(model = %looked.model, %about, actor = actor.name, "{kind}");
        self.tell(kind, &target(looked.model), about);
        // At once, as another rollout may take its place; where that fails, each look tries again while it stands.
        if let Err(error) = self.tell_of_end(looked.model, &after).await {
            tracing::debug!(%error, model = %looked.model, "tenants will hear of a canary's end later");
        }
        Ok(())
    }

    /// Does as an operator orders; gives the rollout that is in force then.
    ///
    /// # Errors
    /// When the model has no canary, its state does not fit the order, it is not the one that the caller has read, a version
    /// could not take the traffic, or the store is away.
    pub async fn order(
        &self,
        actor: &Actor,
        id: &ModelId,
        order: Order,
        (reason, expected): (Option<String>, Option<i64>),
    ) -> Result<Rollout, AdminError> {
        let _one = self.changing.lock().await;
        self.in_force().await?;
        let rollout = self.model_by_now(id).await?.rollout.clone();
        still(expected, mark_of_rollout(&rollout))?;
        let Some(canary) = rollout.canary() else {
            let mode = rollout.mode();
            let reason = format!("the rollout of model {id} is {mode}: there is no canary");
            return Err(AdminError::Conflict(reason));
        };
        match order {
            Order::Promote => self.check_live(id, "candidate", canary.candidate).await?,
            Order::RollBack => self.check_live(id, "baseline", canary.baseline).await?,
            Order::Pause | Order::Resume => {}
        }
        let ordered = canary.ordered(order, reason.as_deref(), self.clock.now());
        let after = ordered.map_err(|state| {
            let state = state.as_str();
            AdminError::Conflict(format!("the canary of model {id} is {state}"))
        })?;
        let arms = self.standing(id, canary).await?;
        let looked = Looked {
            model: id,
            rollout: &rollout,
            canary,
        };
        self.decide(actor, &looked, after, &arms).await?;
        self.rollout(id)
    }

    /// What a canary's arms did until now, over all replicas.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn standing(&self, id: &ModelId, canary: &Canary) -> Result<Standing, AdminError> {
        let arms = canary.versions();
        let labelled = self.store.canary_labels(id, &arms, canary.begun_at);
        let figures = Figures {
            steps: self.store.canary_steps(canary.run).await?,
            labelled: labelled.await?,
        };
        Ok(judged(canary, &figures).0)
    }

    /// What labels say of a canary's arms: read anew as often as that is cheap, and where a guard looks at them.
    async fn labels_of(
        &self,
        looked: &Looked<'_>,
        labels: &mut Labels,
    ) -> Result<ArmLabels, StoreError> {
        let canary = looked.canary;
        if !canary.guards.look_at_labels() {
            return Ok(BTreeMap::new());
        }
        if let Some((due, known)) = labels.known.get(&canary.run)
            && Instant::now() < *due
        {
            return Ok(known.clone());
        }
        let begun = Instant::now();
        let arms = canary.versions();
        let found = self
            .store
            .canary_labels(looked.model, &arms, canary.begun_at);
        let found = found.await?;
        let due = Instant::now() + begun.elapsed() * LABELS_PART;
        labels.known.insert(canary.run, (due, found.clone()));
        Ok(found)
    }

    /// Tells tenants that a canary has come to its end; each of them once, whoever tells.
    async fn tell_of_end(&self, model: &ModelId, canary: &Canary) -> Result<(), StoreError> {
        let event = match canary.stage.state {
            CanaryState::Promoted => EventKind::RolloutPromoted,
            CanaryState::RolledBack => EventKind::RolloutRolledBack,
            CanaryState::Running | CanaryState::Paused => return Ok(()),
        };
        let since = canary.stage.since.timestamp_micros();
        let news = News {
            telling: Telling {
                subject: target(model),
                event,
                // It may be promoted, rolled back and promoted again.
                mark: format!("{} {since}", canary.run),
                settles: false,
            },
            model: model.clone(),
            data: json!({
                "model": model.as_str(),
                "baseline": canary.baseline.get(),
                "candidate": canary.candidate.get(),
                "reason": canary.stage.reason,
            }),
        };
        self.outbox.tell(&news).await
    }
}

/// What a decision is called, as an event and in the audit.
fn named(before: &Canary, after: &Canary) -> (&'static str, &'static str) {
    match (before.stage.state, after.stage.state) {
        (_, CanaryState::Promoted) => ("rollout.promoted", "rollout.promote"),
        (_, CanaryState::RolledBack) => ("rollout.rolled_back", "rollout.rollback"),
        (_, CanaryState::Paused) => ("rollout.paused", "rollout.pause"),
        (CanaryState::Paused, CanaryState::Running) => ("rollout.resumed", "rollout.resume"),
        (_, CanaryState::Running) => ("rollout.moved_on", "rollout.move_on"),
    }
}

/// How a canary stands, and what follows from it.
fn judged(canary: &Canary, figures: &Figures) -> (Standing, Verdict) {
    let [baseline, candidate] = figures.seen(canary);
    let verdict = canary.judge(figures);
    let waits_for = match &verdict {
        Verdict::Wait(waits_for) => waits_for.clone(),
        Verdict::MoveOn(_) | Verdict::RollBack(_) => Vec::new(),
    };
    let standing = Standing {
        baseline,
        candidate,
        waits_for,
    };
    (standing, verdict)
}

impl Standing {
    fn json(&self) -> Value {
        let arm = |did: &ArmFigures| {
            json!({
                "answers": did.answers,
                "errors": did.errors,
                "p95_ms": did.latencies.p95(),
                "compared": did.compared,
                "agreed": did.agreed,
                "labels": did.labels,
                "correct": did.correct,
            })
        };
        json!({"baseline": arm(&self.baseline), "candidate": arm(&self.candidate)})
    }
}
