use crate::runtime::Context;

/// # Errors
pub async fn run(cx: Context) -> anyhow::Result<()> {
    cx.drain.cancelled().await;
    Ok(())
}
