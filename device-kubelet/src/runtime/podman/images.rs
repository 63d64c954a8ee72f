//! The verbs about images.

use super::{
    Inner, READ_LIMIT,
    answer::{self, ImageEntry, InspectedImage},
};
use crate::runtime::{Image, ListedImage, RegistryAuth, Result, RuntimeError, reference};

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
        let id = self
            .verbs
            .pull(&reference::normalized(image), auth)
            .await
            .map_err(|fault| self.error(operation(), fault))?;
        Ok(answer::image_id(&id))
    }

    pub(super) async fn list_images(&self) -> Result<Vec<ListedImage>> {
        let refused = |fault| self.error("list images", fault);
        let answer = self.libpod.get("/images/json", READ_LIMIT).await.map_err(refused)?;
        let listed: Vec<ImageEntry> = answer.json().map_err(refused)?;
        Ok(listed.into_iter().map(ListedImage::from).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use crate::runtime::podman::PodmanRuntime;

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
