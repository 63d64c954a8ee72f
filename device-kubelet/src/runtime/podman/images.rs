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
        // `sha256:…` is how we name ids; libpod wants the bare digits.
        let name = image.strip_prefix("sha256:").unwrap_or(image);
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
