//! What operators want of models, whatever their folders say: versions out of service, and movable names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lensgate::app;
use lensgate::config::Environment;
use lensgate::domain::ids::{ModelId, VersionNumber};
use lensgate::domain::rollout::Rollout;
use lensgate::model_store::{FolderStore, StoreEditor, UploadPart};
use lensgate::models::{
    Check, Happening, ModelEvent, ModelManager, NoticeConfig, Standing, VersionState,
};
use lensgate::store::ModelWish;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::TryRecvError;

use crate::fixture::gateway::{self, TestGateway};
use crate::fixture::store::{TestStore, digest, noted};
use crate::fixture::{data, read};

const MODEL: &str = "rgb-f32";
const LIMIT: Duration = Duration::from_mins(1);

fn id() -> ModelId {
    MODEL.parse().expect("an id")
}

fn number(number: u64) -> VersionNumber {
    number.to_string().parse().expect("a number")
}

fn graph() -> Vec<u8> {
    read(data("models/rgb-f32/1/model.onnx"))
}

fn wishes(unloaded: &[u64], aliases: &[(&str, u64)]) -> BTreeMap<ModelId, ModelWish> {
    let wish = ModelWish {
        rollout: Rollout::default(),
        aliases: aliases
            .iter()
            .map(|&(alias, n)| (alias.to_owned(), number(n)))
            .collect(),
        unloaded: unloaded.iter().map(|&n| number(n)).collect::<BTreeSet<_>>(),
    };
    BTreeMap::from([(id(), wish)])
}

/// A manager alone, not started; without a child process.
fn manager(store: &TestStore) -> Arc<ModelManager> {
    let config = gateway::config(store.path(), &[]);
    let backends = app::backends(&config, &Environment::default());
    let notice = NoticeConfig {
        events: true,
        scan_every: Duration::from_mins(1),
    };
    let folder = app::model_store(&config).quiet(Duration::from_millis(50));
    ModelManager::new(Arc::new(folder), app::loader(&config, backends), notice)
}

fn states(manager: &ModelManager) -> Vec<(u64, VersionState)> {
    let catalog = manager.catalog().load();
    let versions = catalog
        .models
        .get(&id())
        .into_iter()
        .flat_map(|model| &model.versions);
    versions
        .map(|(number, version)| (number.get(), version.state))
        .collect()
}

/// Two versions of one model.
fn two() -> TestStore {
    let store = TestStore::tiny(&[MODEL]);
    store.place_version(MODEL, 2, &noted(&graph(), 2));
    store
}

async fn ask(gateway: &TestGateway, version: &str) -> crate::fixture::gateway::Answer {
    let route = format!("/v1/models/{MODEL}/versions/{version}/classify");
    gateway
        .raw(&route, "image/png", read(data("images/red.png")))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unloaded_version_never_serves_for_a_moment() {
    let store = two();
    let manager = manager(&store);
    let mut events = manager.events();
    manager.want(wishes(&[2], &[]));
    manager.start().expect("started");
    assert_eq!(
        manager.settle(&id(), number(1), None, LIMIT).await,
        Standing::Live
    );
    assert!(matches!(
        manager.settle(&id(), number(2), None, LIMIT).await,
        Standing::Unloaded(_)
    ));
    assert_eq!(
        states(&manager),
        [(1, VersionState::Live), (2, VersionState::Unloaded)]
    );
    assert!(
        manager.catalog().load().settled,
        "an unloaded version keeps nobody waiting"
    );
    let mut of_two = Vec::new();
    loop {
        match events.try_recv() {
            Ok(event) if event.version == number(2) => of_two.push(event.what),
            Ok(_) => {}
            Err(TryRecvError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let never = [
        VersionState::Loading,
        VersionState::Testing,
        VersionState::Live,
    ];
    assert!(
        of_two.contains(&Happening::Seen)
            && !never
                .iter()
                .any(|state| of_two.contains(&Happening::Is(*state))),
        "{of_two:?}"
    );
    manager.want(BTreeMap::new());
    assert_eq!(
        manager.settle(&id(), number(2), None, LIMIT).await,
        Standing::Live
    );
    manager.stop();
}

#[tokio::test]
async fn versions_leave_and_come_back_while_the_gateway_serves() {
    let store = two();
    let gateway = TestGateway::start(store.path(), &[]).await;
    assert_eq!(ask(&gateway, "2").await.assert_ok()["version"], 2);
    gateway.manager.want(wishes(&[2], &[]));
    let view = gateway
        .until(MODEL, |view| view["versions"][1]["state"] == "unloaded")
        .await;
    assert_eq!(view["versions"][1]["digest"], digest(&noted(&graph(), 2)));
    assert!(
        view["versions"][1]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("operator"))
    );
    let detail = ask(&gateway, "2")
        .await
        .assert_problem(503, "model_unavailable")
        .to_owned();
    assert!(detail.contains("unloaded"), "{detail}");
    let red = read(data("images/red.png"));
    let route = format!("/v1/models/{MODEL}/classify");
    let answer = gateway.raw(&route, "image/png", red.clone()).await;
    assert_eq!(answer.assert_ok()["version"], 1, "the other one takes over");
    // The last one leaves, too: an operator's word counts more than a gap.
    gateway.manager.want(wishes(&[1, 2], &[]));
    gateway
        .until(MODEL, |view| view["versions"][0]["state"] == "unloaded")
        .await;
    gateway
        .raw(&route, "image/png", red)
        .await
        .assert_problem(503, "model_unavailable");
    // A new content of an unloaded version does not bring it back.
    store.place(&format!("{MODEL}/2/model.onnx"), noted(&graph(), 3));
    gateway
        .until(MODEL, |view| {
            view["versions"][1]["digest"] == digest(&noted(&graph(), 3))
        })
        .await;
    gateway.manager.want(wishes(&[1], &[]));
    let view = gateway
        .until(MODEL, |view| view["versions"][1]["state"] == "live")
        .await;
    assert_eq!(view["versions"][0]["state"], "unloaded");
    assert_eq!(
        ask(&gateway, "2").await.assert_ok()["digest"],
        digest(&noted(&graph(), 3))
    );
}

#[tokio::test]
async fn the_same_wishes_again_change_nothing() {
    let store = two();
    let gateway = TestGateway::start(store.path(), &[]).await;
    gateway.manager.want(wishes(&[2], &[("stable", 1)]));
    gateway
        .until(MODEL, |view| view["versions"][1]["state"] == "unloaded")
        .await;
    let before = gateway.manager.catalog().load();
    gateway.manager.want(wishes(&[2], &[("stable", 1)]));
    assert!(Arc::ptr_eq(&before, &gateway.manager.catalog().load()));
}

#[tokio::test]
async fn an_alias_is_usable_wherever_a_version_is_named() {
    let store = two();
    let gateway = TestGateway::start(store.path(), &[]).await;
    ask(&gateway, "stable")
        .await
        .assert_problem(404, "version_not_found");
    gateway.manager.want(wishes(
        &[],
        &[("stable", 1), ("v1.0", 1), ("next", 2), ("lost", 7)],
    ));
    // In force when the call returns.
    for (alias, version) in [("stable", 1), ("v1.0", 1), ("next", 2)] {
        assert_eq!(
            ask(&gateway, alias).await.assert_ok()["version"],
            version,
            "{alias}"
        );
    }
    let detail = ask(&gateway, "lost")
        .await
        .assert_problem(503, "model_unavailable")
        .to_owned();
    assert!(detail.contains("version 7"), "{detail}");
    ask(&gateway, "7")
        .await
        .assert_problem(404, "version_not_found");
    ask(&gateway, "Stable")
        .await
        .assert_problem(404, "version_not_found");
    let view = gateway.get(&format!("/v1/models/{MODEL}")).await;
    let aliases = |view: &Value| {
        let versions = view["versions"].as_array().expect("versions").clone();
        versions
            .into_iter()
            .map(|version| version["aliases"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        aliases(view.assert_ok()),
        [json!(["stable", "v1.0"]), json!(["next"])]
    );
    // Moved, and its version taken out of service.
    gateway.manager.want(wishes(&[2], &[("stable", 2)]));
    let view = gateway
        .until(MODEL, |view| view["versions"][1]["state"] == "unloaded")
        .await;
    assert_eq!(aliases(&view), [json!([]), json!(["stable"])]);
    let detail = ask(&gateway, "stable")
        .await
        .assert_problem(503, "model_unavailable")
        .to_owned();
    assert!(detail.contains("unloaded"), "{detail}");
}

#[tokio::test]
async fn an_alias_is_there_as_soon_as_its_model_is() {
    let store = TestStore::empty();
    let gateway = TestGateway::start_unready(store.path(), &[]).await;
    gateway.manager.want(wishes(&[], &[("stable", 1)]));
    store.add(&data("models/rgb-f32"), MODEL);
    gateway
        .until(MODEL, |view| view["versions"][0]["state"] == "live")
        .await;
    assert_eq!(ask(&gateway, "stable").await.assert_ok()["version"], 1);
}

fn said(events: &mut lensgate::models::ModelEvents) -> Vec<(u64, &'static str, Option<String>)> {
    let mut said = Vec::new();
    while let Ok(ModelEvent {
        version,
        what,
        reason,
        ..
    }) = events.try_recv()
    {
        said.push((version.get(), what.as_str(), reason));
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_announced_in_order() {
    let store = TestStore::tiny(&[MODEL]);
    let manager = manager(&store);
    let mut events = manager.events();
    manager.start().expect("started");
    let words = |events: &mut _| {
        said(events)
            .into_iter()
            .map(|(_, what, _)| what)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        manager.settle(&id(), number(1), None, LIMIT).await,
        Standing::Live
    );
    let mut heard = words(&mut events);
    heard.dedup();
    assert_eq!(heard, ["seen", "waiting", "loading", "testing", "live"]);
    store.place(&format!("{MODEL}/1/model.onnx"), noted(&graph(), 1));
    let mut heard = Vec::new();
    let deadline = Instant::now() + LIMIT;
    while !heard.contains(&"live") {
        assert!(Instant::now() < deadline, "{heard:?}");
        heard.extend(words(&mut events));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let replaced = heard.iter().position(|what| *what == "replaced");
    assert_eq!(
        replaced,
        heard
            .iter()
            .position(|what| *what == "live")
            .map(|at| at - 1),
        "{heard:?}"
    );
    manager.want(wishes(&[1], &[]));
    assert!(matches!(
        manager.settle(&id(), number(1), None, LIMIT).await,
        Standing::Unloaded(_)
    ));
    assert_eq!(words(&mut events), ["unloaded"]);
    manager.want(BTreeMap::new());
    store.place(&format!("{MODEL}/1/model.onnx"), "nonsense");
    let standing = manager.settle(&id(), number(1), None, LIMIT).await;
    assert!(
        matches!(&standing, Standing::Failed(reason) if reason.contains("ONNX")),
        "{standing:?}"
    );
    let heard = said(&mut events);
    let (_, what, reason) = heard.last().expect("an event");
    assert!(
        *what == "failed"
            && reason
                .as_ref()
                .is_some_and(|reason| reason.contains("ONNX")),
        "{heard:?}"
    );
    std::fs::remove_dir_all(store.path().join(MODEL)).expect("removed");
    assert!(manager.until_gone(&id(), None, LIMIT).await);
    assert_eq!(words(&mut events), ["gone"]);
    // Nobody listens: nothing waits, nothing fails.
    drop(events);
    store.add(&data("models/rgb-f32"), MODEL);
    assert_eq!(
        manager.settle(&id(), number(1), None, LIMIT).await,
        Standing::Live
    );
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_hears_of_every_end() {
    let store = TestStore::tiny(&[MODEL]);
    let manager = manager(&store);
    manager.start().expect("started");
    assert_eq!(
        manager.settle(&id(), number(3), None, LIMIT).await,
        Standing::Gone
    );
    let none = "none".parse().expect("an id");
    assert_eq!(
        manager.settle(&none, number(1), None, LIMIT).await,
        Standing::Gone
    );
    store.write("none/model.toml", "title = 'T'\n");
    assert!(manager.look_at(&none, LIMIT).await);
    let catalog = manager.catalog().load();
    assert_eq!(catalog.models[&none].title.as_deref(), Some("T"));
    // What failed is tried again at once by whoever asks.
    store.place(
        &format!("{MODEL}/2/model.onnx"),
        read(data("broken/nan-output/1/model.onnx")),
    );
    for _ in 0..2 {
        let standing = manager.settle(&id(), number(2), None, LIMIT).await;
        assert!(
            matches!(&standing, Standing::Failed(reason) if reason.contains("finite")),
            "{standing:?}"
        );
    }
    // A gateway that stops leaves nobody waiting.
    store.write(&format!("{MODEL}/4/model.onnx"), "");
    let waiting = {
        let manager = Arc::clone(&manager);
        async move { manager.settle(&id(), number(4), None, LIMIT).await }
    };
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tokio::task::spawn_blocking(move || manager.stop())
            .await
            .expect("stopped");
    };
    let (standing, ()) = tokio::join!(waiting, stopping);
    assert_eq!(standing, Standing::Stopping);
}

async fn check(
    gateway: &TestGateway,
    store: &TestStore,
    parts: &[(UploadPart, &[u8])],
) -> (bool, Vec<Check>) {
    let editor = StoreEditor::new(FolderStore::new(store.path().to_path_buf(), 1 << 30));
    let mut upload = editor.upload(&id(), number(2)).await.expect("begun");
    for (part, content) in parts {
        let mut writer = upload.begin(part).await.expect("begun");
        writer.write(content).await.expect("written");
        writer.end().await.expect("ended");
    }
    let staged = Arc::new(upload.finish().await.expect("staged"));
    let outcome = gateway.manager.check(&staged).await;
    staged.discard().await;
    assert!(
        !store.path().join(".uploads").exists(),
        "nothing is left once it is told"
    );
    match outcome {
        Ok(checks) => (true, checks),
        Err(error) => (false, error.checks),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_checked_as_a_load_is_with_and_without_a_child_process() {
    let store = TestStore::tiny(&[MODEL]);
    let settings = ["model_store.trial_timeout=5s"];
    let plain = TestGateway::start(store.path(), &settings).await;
    let tried = TestGateway::start_with_trials(store.path(), &settings).await;
    tried.ready().await;
    let own = graph();
    let golden = |label: &str| format!("[[golden]]\nimage = 'red.png'\nlabel = '{label}'\n");
    let (good, bad) = (golden("red"), golden("blue"));
    let picture = (
        UploadPart::File("red.png".parse().expect("a name")),
        &*read(data("images/red.png")),
    );
    let names = |checks: &[Check]| checks.iter().map(|check| check.name).collect::<Vec<_>>();
    let all = [
        "file", "manifest", "graph", "input", "output", "warm_up", "scores", "labels", "golden",
    ];
    for gateway in [&plain, &tried] {
        let whole = [
            (UploadPart::Model, &*own),
            (UploadPart::Manifest, good.as_bytes()),
            picture.clone(),
        ];
        let (ok, checks) = check(gateway, &store, &whole).await;
        assert!(ok && checks.iter().all(|check| check.ok), "{checks:?}");
        assert_eq!(names(&checks), all);
        for (parts, last) in [
            (
                vec![
                    (UploadPart::Model, &*own),
                    (UploadPart::Manifest, bad.as_bytes()),
                    picture.clone(),
                ],
                "golden",
            ),
            (
                vec![(
                    UploadPart::Model,
                    &*read(data("broken/nan-output/1/model.onnx")),
                )],
                "warm_up",
            ),
            (
                vec![(UploadPart::Model, &*own), (UploadPart::Labels, b"a\nb\n")],
                "labels",
            ),
            (vec![(UploadPart::Model, &b"nonsense"[..])], "file"),
            (
                vec![
                    (UploadPart::Model, &*own),
                    (UploadPart::Manifest, b"sise = 1"),
                ],
                "manifest",
            ),
        ] {
            let (ok, checks) = check(gateway, &store, &parts).await;
            let failed = checks.last().expect("a check");
            assert!(!ok && !failed.ok && failed.name == last, "{checks:?}");
            assert!(
                !failed
                    .detail
                    .contains(store.path().to_str().expect("a path")),
                "{failed:?}"
            );
        }
    }
    for (hostile, word) in [("crashing", "crashed"), ("endless", "longer")] {
        let model = read(data(&format!("hostile/{hostile}/1/model.onnx")));
        let (ok, checks) = check(&tried, &store, &[(UploadPart::Model, &model)]).await;
        let failed = checks.last().expect("a check");
        assert!(
            !ok && failed.name == "graph" && failed.detail.contains(word),
            "{checks:?}"
        );
    }
    assert_eq!(ask(&tried, "1").await.assert_ok()["class"], "red");
}
