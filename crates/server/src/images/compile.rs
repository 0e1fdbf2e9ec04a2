//! Environments whose packages have to be compiled: an Engine runs the image that they are for, and what it made there
//! becomes the environment's layer.

use moorline_core::{Environment, ErrorClass, TargetError};
use moorline_deploy::{
    Progress,
    container::{Done, Engine, Errand},
    environment::EnvironmentError,
    image::{ImageError, Uncompiled},
};
use tokio::time::timeout;

use super::{Builder, ImageMaker, image_error};

impl ImageMaker {
    /// Makes what `uncompiled` misses, so that the same image can be made afterwards.
    pub(super) async fn compile(
        &self,
        uncompiled: Box<Uncompiled>,
        environment: &Environment,
        builder: Builder<'_>,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        // Its message says what an Engine would do.
        let Some(engine) = builder.engine().await? else {
            return Err(image_error(ImageError::Uncompiled(uncompiled)));
        };
        let Uncompiled { error, base, platform, python, .. } = &*uncompiled;
        let named = error.without_wheels().join(", ");
        progress.line(&format!("{named}: no wheel for the image's Python, so it is built in the image"));
        let environments = self.images.environments();
        let compilation = environments.compilation(environment, python, &base.config_digest, progress).await;
        let Some(compilation) = compilation.map_err(environment_error)? else { return Ok(()) };
        let (name, program) = (compilation.name(), compilation.program());
        let (files, wheels, result) = (compilation.files(), compilation.wheels(), compilation.result());
        let errand = Errand {
            name: &name,
            image: base,
            platform,
            program: &program,
            files: &files,
            place: compilation.place(),
            result: &result,
            into: &wheels,
        };
        let done = self.run(&engine, &errand, compilation.limit(), progress).await?;
        if done.code != 0 {
            return Err(environment_error(compilation.failure(done.code, done.log)));
        }
        compilation.finish(progress).await.map_err(environment_error)?;
        Ok(())
    }

    async fn run(
        &self,
        engine: &Engine,
        errand: &Errand<'_>,
        limit: std::time::Duration,
        progress: &Progress,
    ) -> Result<Done, TargetError> {
        match timeout(limit, engine.run(errand, &self.images, progress)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(TargetError::caused(
                error.class(),
                "packages could not be built in the base image",
                error,
            )),
            Err(_) => Err(TargetError::new(
                ErrorClass::Timeout,
                format!("packages were not built in the base image within {} s", limit.as_secs()),
            )),
        }
    }
}

fn environment_error(error: EnvironmentError) -> TargetError {
    let log = error.log().to_vec();
    TargetError::caused(error.class(), "could not make the environment", error).with_log(log)
}
