//! The verbs about images.

use std::time::Duration;

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;

use super::{
    Inner, READ_LIMIT,
    answer::{self, ImageEntry, InspectedImage},
    libpod::{Fault, Lines},
};
use crate::runtime::{Image, ListedImage, RegistryAuth, Result, RuntimeError, reference};

/// How long a pull may go on without progress. containerd gives up after five minutes, but counts only what is
/// downloaded; Podman does not tell how far it unpacked a layer, which takes its time on a slow card.
pub(super) const PULL_LIMIT: Duration = Duration::from_secs(15 * 60);

impl Inner {
    pub(super) async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        if !reference::is_plausible(image) {
            return Ok(None);
        }
        let name = reference::normalized(image);
        // `sha256:…` is how we name ids; libpod wants the bare digits.
        let name = name.strip_prefix("sha256:").unwrap_or(&name);
        match self.libpod.get(&format!("/images/{name}/json"), READ_LIMIT).await {
            Ok(answer) => {
                let image = answer.json::<InspectedImage>();
                Ok(Some(image.map_err(|fault| self.error("look at an image", fault))?.into()))
            }
            Err(fault) if fault.is_not_found() => Ok(None),
            Err(fault) => Err(self.error(format!("look at image {image}"), fault)),
        }
    }

    pub(super) async fn pull_image(&self, image: &str, auth: Option<RegistryAuth>) -> Result<String> {
        let operation = || format!("pull image {image:?}");
        if !reference::is_plausible(image) {
            return Err(RuntimeError::Refused {
                operation: operation(),
                message: "invalid reference format".to_owned(),
            });
        }
        let name = reference::normalized(image);
        let reports =
            stream::once(self.libpod.pull(&name, auth.as_ref())).map_ok(Lines::into_stream).try_flatten();
        let id =
            until_pulled(reports, self.pull_limit).await.map_err(|fault| self.error(operation(), fault))?;
        let pulled = self.image_status(&answer::image_id(&id)).await?;
        pulled.map(|image| image.id).ok_or(RuntimeError::NotFound { what: "image", id })
    }

    pub(super) async fn list_images(&self) -> Result<Vec<ListedImage>> {
        let refused = |fault| self.error("list images", fault);
        let answer = self.libpod.get("/images/json", READ_LIMIT).await.map_err(refused)?;
        let listed: Vec<ImageEntry> = answer.json().map_err(refused)?;
        Ok(listed.into_iter().map(ListedImage::from).collect())
    }
}

/// Reads what is told of a pull, to its end: the first digits of the image's id. The status may be 200 before it begins;
/// what goes wrong then stands in the body.
async fn until_pulled(
    reports: impl Stream<Item = Result<Vec<u8>, Fault>>,
    limit: Duration,
) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Report {
        error: Option<String>,
        /// Of a layer, and of the image at last.
        id: Option<String>,
    }
    let mut reports = std::pin::pin!(reports);
    let mut last = None;
    loop {
        let report = tokio::time::timeout(limit, reports.next()).await.map_err(|_| {
            let seconds = limit.as_secs();
            Fault::Malformed(format!(
                "no progress for {seconds} s: look at the registry and at the link to it; it is tried again"
            ))
        })?;
        let Some(report) = report.transpose()? else { break };
        let report: Report = serde_json::from_slice(&report)
            .map_err(|error| Fault::Malformed(format!("the pull is not understood: {error}")))?;
        if let Some(message) = report.error.filter(|message| !message.is_empty()) {
            return Err(Fault::Malformed(message));
        }
        last = report.id.filter(|id| !id.is_empty()).or(last);
    }
    last.ok_or_else(|| Fault::Malformed("the pull ended without an image".to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use base64::{Engine as _, engine::general_purpose::URL_SAFE};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
        time::Instant,
    };

    use super::*;
    use crate::runtime::podman::PodmanRuntime;

    /// Told when the minutes before it are over.
    fn reports(told: &[(u64, &'static str)]) -> impl Stream<Item = Result<Vec<u8>, Fault>> {
        stream::iter(told.to_vec()).then(async |(minutes, report)| {
            tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
            Ok(report.as_bytes().to_vec())
        })
    }

    const PROGRESS: &str =
        r#"{"status":"Downloading","progressDetail":{"current":1,"total":9},"id":"c0ffee"}"#;

    #[tokio::test(start_paused = true)]
    async fn a_pull_may_be_slow_but_not_stand_still() {
        let done = r#"{"status":"Download complete","progressDetail":{},"id":"1234567890ab"}"#;
        let pulled = until_pulled(reports(&[(14, PROGRESS), (14, PROGRESS), (14, done)]), PULL_LIMIT).await;
        assert_eq!(pulled.unwrap(), "1234567890ab");
        let began = Instant::now();
        let stalled = until_pulled(reports(&[(1, PROGRESS), (60, PROGRESS)]), PULL_LIMIT).await.unwrap_err();
        assert_eq!(began.elapsed().as_secs(), 60 + PULL_LIMIT.as_secs());
        assert!(stalled.to_string().contains("no progress for 900 s"), "{stalled}");
        let refused = until_pulled(reports(&[(1, PROGRESS), (1, r#"{"error":"denied"}"#)]), PULL_LIMIT)
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), "denied");
    }

    #[tokio::test]
    async fn a_pull_asks_for_the_full_name_with_its_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let podman = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let body = "{\"error\":\"denied\"}\n";
            let answer = format!("HTTP/1.1 500 Sorry\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let runtime = PodmanRuntime::new(socket.to_str().unwrap());
        let auth = RegistryAuth { username: "me".to_owned(), password: "secret".to_owned() };
        let refused = runtime.inner.pull_image("busybox:1", Some(auth)).await.unwrap_err();
        assert_eq!(refused.to_string(), "pull image \"busybox:1\": denied");
        let asked = podman.await.unwrap();
        let line = "POST /v1.40/images/create?fromImage=docker.io%2Flibrary%2Fbusybox%3A1 HTTP/1.1\r\n";
        assert!(asked.starts_with(line), "{asked}");
        let auth = asked.lines().find_map(|line| line.strip_prefix("x-registry-auth: ")).unwrap();
        let auth: serde_json::Value = serde_json::from_slice(&URL_SAFE.decode(auth).unwrap()).unwrap();
        assert_eq!(auth, serde_json::json!({"username": "me", "password": "secret"}));
    }

    #[tokio::test]
    async fn what_is_on_the_device_is_asked_for_by_its_full_name() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let libpod = tokio::spawn(async move {
            let mut asked = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                asked.push(String::from_utf8(request).unwrap().lines().next().unwrap().to_owned());
                let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
            asked
        });
        let runtime = PodmanRuntime::new(socket.to_str().unwrap());
        for image in ["busybox:1", "sha256:c0ffee"] {
            assert_eq!(runtime.inner.image_status(image).await.unwrap(), None);
        }
        let asked = libpod.await.unwrap();
        assert_eq!(asked[0], "GET /v4.0.0/libpod/images/docker.io/library/busybox:1/json HTTP/1.1");
        assert_eq!(asked[1], "GET /v4.0.0/libpod/images/c0ffee/json HTTP/1.1");
    }
}
