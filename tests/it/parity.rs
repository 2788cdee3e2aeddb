//! Right answers: every real model on every photo, on both backends, against Pillow + ONNX Runtime.

use std::path::Path;

use crate::fixture::gateway::TestGateway;
use crate::fixture::{fixtures, json, read, real};

/// How far a confidence may lie from the reference.
fn tolerance(model: &str, backend: &str, picture: &str) -> f64 {
    let quantised = ["squeezenet1.1-int8", "mobilenetv1-025-uint8"].contains(&model);
    match backend {
        // tract computes a quantised graph in floats, as the graph is written; ONNX Runtime's integer kernels
        // round elsewhere (so does it itself without its optimiser): up to a few steps of 1/256 apart.
        "tract" if quantised => 0.05,
        _ if picture.ends_with("webp") => 0.02,
        _ if model == "mobilenetv1-025-uint8" => 1.0 / 256.0 + 1e-6,
        "tract" => 0.002,
        _ => 0.0005,
    }
}

async fn compare(folder: &Path, backend: &str) {
    let store = real::store(folder, &real::MODELS, backend);
    let gateway = TestGateway::start(store.path(), &[]).await;
    println!("| model | backend | pictures | top label as the reference | largest difference |");
    println!("| --- | --- | --- | --- | --- |");
    let mut wrong = Vec::new();
    for model in real::MODELS {
        let view = gateway.get(&format!("/v1/models/{model}")).await;
        let version = &view.assert_ok()["versions"][0];
        assert_eq!(
            version["state"], "live",
            "{model} on {backend}: {}",
            version["reason"]
        );
        let classes = version["labels_count"].as_u64().expect("a count");
        let expected = json(folder.join("expected").join(format!("{model}.json")));
        let (mut pictures, mut same, mut clear, mut largest) = (0, 0, 0, 0.0_f64);
        for (picture, reference) in expected["images"].as_object().expect("pictures") {
            let path = folder.join("images").join(picture);
            let route = format!("/v1/models/{model}/classify?top_k={classes}");
            let answer = gateway
                .raw(&route, "application/octet-stream", read(path))
                .await;
            let body = answer.assert_ok();
            let mut confidence = vec![0.0; usize::try_from(classes).expect("a number")];
            for class in body["classes"].as_array().expect("classes") {
                let index = class["index"]
                    .as_u64()
                    .and_then(|i| usize::try_from(i).ok());
                confidence[index.expect("an index")] =
                    class["confidence"].as_f64().expect("a number");
            }
            let top = reference["top5"].as_array().expect("classes");
            let of = |rank: usize| top[rank]["probability"].as_f64().expect("a number");
            pictures += 1;
            if of(0) - of(1) > 0.02 {
                clear += 1;
                if body["class"] == top[0]["label"] {
                    same += 1;
                } else {
                    wrong.push(format!(
                        "{model} on {backend}, {picture}: {} is not {}",
                        body["class"], top[0]
                    ));
                }
            }
            for class in top {
                let index = class["index"]
                    .as_u64()
                    .and_then(|i| usize::try_from(i).ok());
                let reference = class["probability"].as_f64().expect("a number");
                let difference = (confidence[index.expect("an index")] - reference).abs();
                largest = largest.max(difference);
                if difference > tolerance(model, backend, picture) {
                    wrong.push(format!(
                        "{model} on {backend}, {picture}: {difference:.5} from {class}"
                    ));
                }
            }
        }
        assert!(pictures >= 3, "{model} has too few reference pictures");
        println!(
            "| {model} | {backend} | {pictures} | {same} of {clear} clear ones | {largest:.6} |"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn on_ort_every_answer_is_the_references() {
    if let Some(folder) = fixtures() {
        compare(&folder, "ort").await;
    }
}

#[tokio::test]
async fn on_tract_every_answer_is_the_references() {
    if let Some(folder) = fixtures() {
        compare(&folder, "tract").await;
    }
}

/// On the photos of which a person knows what they show, a real model must be right, not only equal to a reference.
#[tokio::test]
async fn photos_are_what_they_show() {
    let Some(folder) = fixtures() else { return };
    let store = real::store(&folder, &["squeezenet1.1"], "auto");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let truth = json(folder.join("images/TRUTH.json"));
    let (mut right, mut all) = (0, 0);
    for (picture, accepted) in truth["photos"].as_object().expect("photos") {
        let path = folder.join("images").join(picture);
        let answer = gateway.form("/v1/classify", read(path)).await;
        let index = &answer.assert_ok()["classes"][0]["index"];
        let accepted = accepted["acceptable_indices"].as_array().expect("classes");
        all += 1;
        right += usize::from(accepted.contains(index));
    }
    println!("squeezenet1.1 is right on {right} of {all} photos");
    assert!(right * 10 >= all * 8, "{right} of {all}");
}
