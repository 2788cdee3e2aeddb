//! Changes of the model store from inside: each is seen whole or not at all, and what fails leaves nothing.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lensgate::domain::error::ErrorKind;
use lensgate::domain::ids::{Digest, ModelId, VersionNumber};
use lensgate::model_store::{
    ChangeError, Content, Description, Edit, FolderStore, ModelStore as _, Part, Place, Staged,
    StoreEditor, Upload, UploadPart,
};

use crate::fixture::store::{TestStore, digest, noted, tree};
use crate::fixture::{data, read};

const MODEL: &str = "rgb-f32";

fn graph() -> Vec<u8> {
    read(data("models/rgb-f32/1/model.onnx"))
}

fn id(text: &str) -> ModelId {
    text.parse().expect("an id")
}

fn number(number: u64) -> VersionNumber {
    number.to_string().parse().expect("a number")
}

fn editor(store: &TestStore) -> StoreEditor {
    StoreEditor::new(FolderStore::new(store.path().to_path_buf(), 1 << 20))
}

async fn write(
    upload: &mut Upload,
    part: UploadPart,
    content: &[u8],
) -> Result<Digest, ChangeError> {
    let mut writer = upload.begin(&part).await?;
    for piece in content.chunks(100_000) {
        writer.write(piece).await?;
    }
    writer.end().await
}

fn file(name: &str) -> UploadPart {
    UploadPart::File(name.parse().expect("a name"))
}

async fn staged(
    editor: &StoreEditor,
    version: u64,
    parts: &[(UploadPart, &[u8])],
) -> Result<Arc<Staged>, ChangeError> {
    let mut upload = editor.upload(&id(MODEL), number(version)).await?;
    for (part, content) in parts {
        write(&mut upload, part.clone(), content).await?;
    }
    upload.finish().await.map(Arc::new)
}

async fn graph_alone(editor: &StoreEditor, version: u64, graph: &[u8]) -> Arc<Staged> {
    let staged = staged(editor, version, &[(UploadPart::Model, graph)]).await;
    staged.expect("staged")
}

#[tokio::test]
async fn a_version_is_placed_whole_and_is_what_was_checked() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    let other = noted(&graph(), 1);
    let before = tree(store.path());
    let picture = read(data("images/red.png"));
    let manifest: &[u8] = b"[[golden]]\nimage = 'own/red.png'\nlabel = 'red'\n";
    let parts = [
        (UploadPart::Model, &*other),
        (UploadPart::Manifest, manifest),
        (file("own/red.png"), &*picture),
    ];
    let staged = staged(&editor, 2, &parts).await.expect("staged");
    let candidate = staged.candidate().expect("a candidate").clone();
    assert_eq!(candidate.digest.to_string(), digest(&other));
    // The model's own labels, and the version's own manifest over the model's.
    assert_eq!(candidate.labels.as_deref().map(<[String]>::len), Some(3));
    assert_eq!(candidate.manifest.golden.len(), 1);
    assert_eq!(editor.compare(&staged).await, Ok(Place::Free));
    assert_eq!(editor.place(&staged).await, Ok(Place::Free));
    staged.discard().await;
    let shown = FolderStore::new(store.path().to_path_buf(), 1 << 20);
    let found = shown
        .find(&id(MODEL), &mut |_| ())
        .expect("read")
        .expect("there");
    let Content::Candidate(placed) = &found.versions[1].content else {
        panic!("{found:?}");
    };
    assert_eq!(placed.fingerprint, candidate.fingerprint);
    let after = tree(store.path());
    let names: Vec<_> = after
        .iter()
        .filter(|entry| !before.contains(entry))
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(
        names,
        ["", "/model.onnx", "/model.toml", "/own", "/own/red.png"]
            .map(|name| format!("{MODEL}/2{name}")),
        "nothing else is there, and nothing is gone"
    );
    assert!(before.iter().all(|entry| after.contains(entry)));
}

#[tokio::test]
async fn what_fails_leaves_nothing() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    let before = tree(store.path());
    let large = vec![7; (1 << 20) + 1];
    let (model, text) = (graph(), b"size = 3".as_slice());
    let twice = ErrorKind::BadRequest;
    for (parts, kind) in [
        (
            vec![(UploadPart::Model, &*large)],
            ErrorKind::PayloadTooLarge,
        ),
        (
            vec![
                (UploadPart::Model, &*model),
                (file("weights"), &large[..(1 << 20) - 10]),
            ],
            ErrorKind::PayloadTooLarge,
        ),
        (
            vec![(UploadPart::Model, &*model), (UploadPart::Model, &*model)],
            twice,
        ),
        (vec![(file("a"), text), (file("a/b"), text)], twice),
        (vec![(file("a/b"), text), (file("a"), text)], twice),
        (vec![(UploadPart::Labels, text)], ErrorKind::BadRequest),
        (vec![], ErrorKind::BadRequest),
    ] {
        let mut upload = editor.upload(&id(MODEL), number(2)).await.expect("begun");
        let mut error = None;
        for (part, content) in &parts {
            if let Err(refused) = write(&mut upload, part.clone(), content).await {
                error = Some(refused);
                break;
            }
        }
        let error = match error {
            Some(error) => {
                upload.discard().await;
                error
            }
            None => upload.finish().await.map(drop).expect_err("refused"),
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            !error
                .to_string()
                .contains(store.path().to_str().expect("a path")),
            "{error}"
        );
        assert_eq!(tree(store.path()), before, "{error}");
    }
    assert_eq!(
        editor
            .upload(&id("none"), number(1))
            .await
            .map(drop)
            .map_err(|error| error.kind()),
        Err(ErrorKind::ModelNotFound)
    );
    assert_eq!(tree(store.path()), before);
}

#[tokio::test]
async fn another_content_than_announced_is_refused() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    let before = tree(store.path());
    for (announced, is_good) in [(graph(), true), (noted(&graph(), 1), false)] {
        let upload = editor.upload(&id(MODEL), number(2)).await.expect("begun");
        let expected = digest(&announced).parse().expect("a digest");
        let mut upload = upload.expecting(Some(expected));
        let outcome = write(&mut upload, UploadPart::Model, &graph()).await;
        upload.discard().await;
        match outcome {
            Ok(found) => assert!(is_good && found == expected),
            Err(error) => assert!(
                !is_good
                    && matches!(error, ChangeError::OtherContent { wanted, .. } if wanted == expected),
                "{error}"
            ),
        }
    }
    assert_eq!(tree(store.path()), before);
}

#[tokio::test]
async fn an_upload_that_is_given_up_goes_away() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    let before = tree(store.path());
    let gone = async || {
        let deadline = Instant::now() + Duration::from_secs(10);
        while tree(store.path()) != before {
            assert!(Instant::now() < deadline, "something is left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // In the middle of a file.
    let mut upload = editor.upload(&id(MODEL), number(2)).await.expect("begun");
    let mut writer = upload.begin(&UploadPart::Model).await.expect("begun");
    writer.write(&graph()).await.expect("written");
    drop(writer);
    drop(upload);
    gone().await;
    // A part that was not ended makes no version.
    let mut upload = editor.upload(&id(MODEL), number(2)).await.expect("begun");
    write(&mut upload, UploadPart::Model, &graph())
        .await
        .expect("written");
    drop(upload.begin(&UploadPart::Labels).await.expect("begun"));
    let refused = upload.finish().await.map(drop);
    assert_eq!(refused, Err(ChangeError::Unfinished));
    assert_eq!(tree(store.path()), before);
    // Whole, and never placed.
    drop(graph_alone(&editor, 2, &graph()).await);
    gone().await;
}

#[tokio::test]
async fn a_version_never_changes() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    let same = graph_alone(&editor, 1, &graph()).await;
    let other = graph_alone(&editor, 1, &noted(&graph(), 1)).await;
    let labels: &[u8] = b"rouge\nvert\nbleu\n";
    let relabelled = [(UploadPart::Model, &*graph()), (UploadPart::Labels, labels)];
    let relabelled = staged(&editor, 1, &relabelled).await.expect("staged");
    let before = tree(&store.path().join(MODEL));
    for outcome in [editor.compare(&same).await, editor.place(&same).await] {
        assert_eq!(outcome, Ok(Place::Same));
    }
    for (staged, word) in [(&other, "another one"), (&relabelled, "labels")] {
        for outcome in [editor.compare(staged).await, editor.place(staged).await] {
            let error = outcome.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    assert_eq!(tree(&store.path().join(MODEL)), before);
    // What is on the disk counts, whatever it is: another file than before, a broken one, none, an empty folder, a link.
    let graph_file = store.path().join(MODEL).join("1/model.onnx");
    let conflict = async || {
        let error = editor.place(&same).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        error.to_string()
    };
    std::fs::write(&graph_file, noted(&graph(), 2)).expect("written");
    assert!(conflict().await.contains("another one"));
    std::fs::write(&graph_file, "nonsense").expect("written");
    assert!(conflict().await.contains("broken"));
    std::fs::remove_file(&graph_file).expect("removed");
    assert!(conflict().await.contains("no whole model"));
    std::fs::remove_dir(store.path().join(MODEL).join("1")).expect("removed");
    symlink("/nowhere", store.path().join(MODEL).join("1")).expect("a link");
    conflict().await;
    std::fs::remove_file(store.path().join(MODEL).join("1")).expect("removed");
    assert_eq!(editor.place(&same).await, Ok(Place::Free));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_uploads_of_one_version_one_wins() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    for (version, graphs, losers) in [
        (2, [noted(&graph(), 1), noted(&graph(), 2)], "conflict"),
        (3, [noted(&graph(), 3), noted(&graph(), 3)], "same"),
    ] {
        let mut uploads = Vec::new();
        for graph in &graphs {
            uploads.push(graph_alone(&editor, version, graph).await);
        }
        let outcomes = tokio::join!(editor.place(&uploads[0]), editor.place(&uploads[1]));
        let mut words = [outcomes.0, outcomes.1].map(|outcome| match outcome {
            Ok(Place::Free) => "a winner",
            Ok(Place::Same) => "same",
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                "conflict"
            }
        });
        words.sort_unstable();
        assert_eq!(words, ["a winner", losers]);
        let placed = read(store.path().join(format!("{MODEL}/{version}/model.onnx")));
        assert!(graphs.contains(&placed));
    }
}

#[tokio::test]
async fn uploads_are_bounded() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    let mut held = Vec::new();
    let refused = loop {
        match editor.upload(&id(MODEL), number(2)).await {
            Ok(upload) => held.push(upload),
            Err(error) => break error,
        }
        assert!(held.len() < 100, "there is no bound");
    };
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    for upload in held {
        upload.discard().await;
    }
    assert!(editor.upload(&id(MODEL), number(2)).await.is_ok());
}

#[tokio::test]
async fn what_cannot_serve_says_which_part_of_it() {
    let store = TestStore::tiny(&[MODEL, "rgb-external"]);
    let editor = editor(&store);
    let own = graph();
    for (part, parts, word) in [
        (
            Part::File,
            vec![(UploadPart::Model, &b"nonsense"[..])],
            "ONNX",
        ),
        (
            Part::File,
            vec![(UploadPart::Model, &own[..own.len() - 9])],
            "truncated",
        ),
        (
            Part::Manifest,
            vec![
                (UploadPart::Model, &*own),
                (UploadPart::Manifest, b"sise = 3"),
            ],
            "sise",
        ),
        (
            Part::Labels,
            vec![
                (UploadPart::Model, &*own),
                (UploadPart::Labels, b"\xff\xfe"),
            ],
            "UTF-8",
        ),
        (
            Part::Golden,
            vec![
                (UploadPart::Model, &*own),
                (
                    UploadPart::Manifest,
                    b"[[golden]]\nimage = 'none.png'\nlabel = 'red'\n",
                ),
            ],
            "none.png",
        ),
        (
            Part::External,
            vec![(
                UploadPart::Model,
                &*read(data("models/rgb-external/1/model.onnx")),
            )],
            "weights.bin",
        ),
    ] {
        let staged = staged(&editor, 2, &parts).await.expect("staged");
        let (found, reason) = staged.candidate().map(drop).expect_err("refused");
        assert_eq!(found, part, "{reason}");
        assert!(reason.contains(word), "{reason}");
        assert!(
            !reason.contains(store.path().to_str().expect("a path")),
            "{reason}"
        );
        staged.discard().await;
    }
    let whole = [
        (
            UploadPart::Model,
            &*read(data("models/rgb-external/1/model.onnx")),
        ),
        (
            file("weights.bin"),
            &*read(data("models/rgb-external/1/weights.bin")),
        ),
    ];
    let whole = staged(&editor, 2, &whole).await.expect("staged");
    assert!(whole.candidate().is_ok(), "{:?}", whole.candidate());
}

#[tokio::test]
async fn a_version_that_its_model_does_not_select_is_refused() {
    let store = TestStore::tiny(&[MODEL]);
    let manifest =
        String::from_utf8(read(store.path().join(MODEL).join("model.toml"))).expect("text");
    let editor = editor(&store);
    store.write(&format!("{MODEL}/9/model.onnx"), graph());
    for (choice, version, selected) in [
        ("[1]", 2, false),
        ("[1, 2]", 2, true),
        ("'latest'", 2, false),
        ("'latest'", 10, true),
        ("'all'", 2, true),
    ] {
        let text = format!("{manifest}\n[serving]\nversions = {choice}\n");
        store.write(&format!("{MODEL}/model.toml"), text);
        let staged = graph_alone(&editor, version, &graph()).await;
        let refusal = staged.candidate().map(drop).err();
        assert_eq!(
            refusal.is_none(),
            selected,
            "{choice} {version}: {refusal:?}"
        );
        if let Some((part, reason)) = refusal {
            assert_eq!(part, Part::Manifest);
            assert!(reason.contains("serving.versions"), "{reason}");
        }
        staged.discard().await;
    }
}

#[tokio::test]
async fn what_a_version_was_checked_with_is_what_it_is_placed_beside() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    let staged = graph_alone(&editor, 2, &graph()).await;
    let labels = store.path().join(MODEL).join("labels.txt");
    let before = read(&labels);
    std::fs::write(&labels, "rot\ngruen\nblau\n").expect("written");
    assert_eq!(editor.place(&staged).await, Err(ChangeError::Changed));
    std::fs::remove_file(&labels).expect("removed");
    assert_eq!(editor.place(&staged).await, Err(ChangeError::Changed));
    assert!(!store.path().join(MODEL).join("2").exists());
    std::fs::write(&labels, before).expect("written");
    assert_eq!(editor.place(&staged).await, Ok(Place::Free));
}

#[tokio::test]
async fn nothing_is_written_through_a_link_that_leads_outside() {
    let outside = TestStore::tiny(&[MODEL]);
    let before = tree(outside.path());
    let store = TestStore::empty();
    symlink(outside.path().join(MODEL), store.path().join(MODEL)).expect("a link");
    let editor = editor(&store);
    let kind = |error: &ChangeError| error.kind();
    let upload = editor.upload(&id(MODEL), number(2)).await.map(drop);
    assert_eq!(upload.as_ref().map_err(kind), Err(ErrorKind::Conflict));
    let texts = || Description {
        title: Edit::Set("T".to_owned()),
        ..Description::default()
    };
    let described = editor.describe(&id(MODEL), texts()).await;
    assert_eq!(described.as_ref().map_err(kind), Err(ErrorKind::Conflict));
    let taken = editor.take_out(&id(MODEL), Some(number(1))).await.map(drop);
    assert_eq!(taken.as_ref().map_err(kind), Err(ErrorKind::Conflict));
    // The model as a whole is the link alone.
    let taken = editor.take_out(&id(MODEL), None).await.expect("taken out");
    taken.remove().await;
    assert!(tree(store.path()).is_empty());
    assert_eq!(tree(outside.path()), before);
    // A link inside the store is no way out, and a manifest behind one that leads outside is not written.
    outside.add(&data("models/rgb-f32"), "inside");
    store.add(&data("models/rgb-f32"), "real");
    symlink("real", store.path().join(MODEL)).expect("a link");
    assert!(editor.upload(&id(MODEL), number(2)).await.is_ok());
    let manifest = store.path().join("real/model.toml");
    std::fs::remove_file(&manifest).expect("removed");
    symlink(outside.path().join("inside/model.toml"), &manifest).expect("a link");
    let before = tree(outside.path());
    let described = editor.describe(&id("real"), texts()).await;
    assert_eq!(described.as_ref().map_err(kind), Err(ErrorKind::Conflict));
    assert_eq!(tree(outside.path()), before);
}

#[tokio::test]
async fn models_come_change_and_go() {
    let store = TestStore::empty();
    let editor = editor(&store);
    let (new, text) = (id("new"), |text: &str| Edit::Set(text.to_owned()));
    let texts = |title: Edit, description: Edit| Description { title, description };
    let created = editor
        .create(&new, texts(text("N\u{e9}w"), Edit::Keep))
        .await;
    assert_eq!(created, Ok(()));
    let manifest = store.path().join("new/model.toml");
    let shown = || String::from_utf8(read(&manifest)).expect("text");
    assert_eq!(shown(), "title = \"N\u{e9}w\"\n");
    let again = editor.create(&new, Description::default()).await;
    assert_eq!(again, Err(ChangeError::ModelExists(new.clone())));
    std::fs::write(
        &manifest,
        format!("# by hand\n{}[input]\nsize = [8, 8]\n", shown()),
    )
    .expect("written");
    editor
        .describe(&new, texts(Edit::Keep, text("what for")))
        .await
        .expect("described");
    assert_eq!(
        shown(),
        "# by hand\ntitle = \"N\u{e9}w\"\ndescription = \"what for\"\n[input]\nsize = [8, 8]\n"
    );
    editor
        .describe(&new, texts(Edit::Remove, Edit::Keep))
        .await
        .expect("described");
    assert!(shown().starts_with("# by hand\ndescription"), "{}", shown());
    std::fs::write(&manifest, "broken = ").expect("written");
    let broken = editor.describe(&new, texts(text("T"), Edit::Keep)).await;
    assert_eq!(
        broken.map_err(|error| error.kind()),
        Err(ErrorKind::Conflict)
    );
    assert_eq!(shown(), "broken = ");
    let none = editor
        .describe(&id("none"), texts(text("T"), Edit::Keep))
        .await;
    assert_eq!(none, Err(ChangeError::NoModel(id("none"))));

    store.write("new/1/model.onnx", graph());
    let before = tree(store.path());
    let missing = editor.take_out(&new, Some(number(2))).await.map(drop);
    assert_eq!(missing, Err(ChangeError::NoVersion(new.clone(), number(2))));
    for number in [Some(number(1)), None] {
        let taken = editor.take_out(&new, number).await.expect("taken out");
        assert!(!store.path().join("new/1").exists());
        taken.put_back().await.expect("put back");
        assert_eq!(tree(store.path()), before);
        // Given up without a word it comes back, too.
        drop(editor.take_out(&new, number).await.expect("taken out"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while tree(store.path()) != before {
            assert!(Instant::now() < deadline, "it does not come back");
        }
    }
    let version = editor
        .take_out(&new, Some(number(1)))
        .await
        .expect("taken out");
    version.remove().await;
    assert_eq!(tree(store.path()).len(), 2, "folder and manifest");
    let model = editor.take_out(&new, None).await.expect("taken out");
    model.remove().await;
    assert!(tree(store.path()).is_empty());
}

#[tokio::test]
async fn a_start_removes_what_the_killed_have_left_alone() {
    let store = TestStore::tiny(&[MODEL]);
    let editor = editor(&store);
    let before = tree(store.path());
    store.write(".uploads/0199-dead/rgb-f32/2/model.onnx", "half");
    store.write(".uploads/0199-dead.lock", "");
    let living = graph_alone(&editor, 2, &graph()).await;
    StoreEditor::new(FolderStore::new(store.path().to_path_buf(), 1 << 20)).sweep();
    assert!(!store.path().join(".uploads/0199-dead").exists());
    assert_eq!(
        editor.place(&living).await,
        Ok(Place::Free),
        "the living one is spared"
    );
    living.discard().await;
    std::fs::remove_dir_all(store.path().join(MODEL).join("2")).expect("removed");
    assert_eq!(tree(store.path()), before);
}
