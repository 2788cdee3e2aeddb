//! Files that are hard to decode, odd, hostile or no pictures: a clear answer to each, never a 5xx, memory within limits.

use std::collections::BTreeMap;

use crate::fixture::gateway::TestGateway;
use crate::fixture::{fixtures, json, read, real};

/// What Pillow decodes and Lensgate rightly refuses, with the reason.
const REFUSED: [(&str, u16, &str); 2] = [
    (
        "avif_heif/Pillow__icc_profile.avif",
        415,
        "AVIF is not among the formats that are served",
    ),
    (
        "tiff/image__clusterfuzz-testcase-minimized-fuzzer_script_tiff-5026894169374720.tif",
        422,
        "the JPEG inside claims 52502 rows where the TIFF has 150",
    ),
];

#[tokio::test]
async fn every_nasty_file_gets_a_clear_answer() {
    let Some(folder) = fixtures() else { return };
    let store = real::store(&folder, &["squeezenet1.1", "mobilenetv2"], "auto");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let expected = json(folder.join("expected/nasty.json"));
    let refused: BTreeMap<&str, u16> = REFUSED
        .iter()
        .map(|&(file, status, _)| (file, status))
        .collect();
    let mut wrong = Vec::new();
    for (file, facts) in expected["files"].as_object().expect("files") {
        let bytes = read(folder.join("nasty").join(file));
        for model in ["squeezenet1.1", "mobilenetv2"] {
            let route = format!("/v1/models/{model}/classify");
            let answer = gateway.raw(&route, "image/jpeg", bytes.clone()).await;
            let status = answer.status.as_u16();
            println!(
                "{file}: {status} {}",
                answer.body["detail"].as_str().unwrap_or("")
            );
            if status != 200 {
                let code = answer.body["code"].as_str().expect("a code").to_owned();
                answer.assert_problem(status, &code);
            }
            let decodes = facts["pillow"]["decodes"].as_bool();
            match (refused.get(file.as_str()), decodes) {
                (Some(&wanted), _) => assert_eq!(status, wanted, "{file}"),
                (None, Some(true)) => {
                    if status != 200 {
                        wrong.push(format!("{file}: Pillow decodes it, we say {status}"));
                        continue;
                    }
                    check_class(file, model, facts, &answer.body, &mut wrong);
                }
                // What Pillow refuses may be refused or served, as a person would expect, but never crash us.
                (None, _) => {
                    if ![200, 413, 415, 422].contains(&status) {
                        wrong.push(format!("{file}: {status}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    gateway.get("/health/ready").await.assert_ok();
}

/// The first class and its confidence are the reference's: exactly for lossless pictures and JPEG, nearly for lossy WebP.
fn check_class(
    file: &str,
    model: &str,
    facts: &serde_json::Value,
    body: &serde_json::Value,
    wrong: &mut Vec<String>,
) {
    let reference = &facts["top1"][model];
    let wanted = reference["probability"].as_f64().expect("a number");
    let got = body["confidence"].as_f64().expect("a number");
    let lossy = facts["pillow"]["format"] == "WEBP";
    let tolerance = if lossy { 0.02 } else { 0.0005 };
    if (got - wanted).abs() > tolerance {
        wrong.push(format!(
            "{file} on {model}: {got:.5} for {}, the reference has {wanted:.5} for {}",
            body["class"], reference["label"]
        ));
    }
}
