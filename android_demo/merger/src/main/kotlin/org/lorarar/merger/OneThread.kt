package org.lorarar.merger

import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.ThreadPoolExecutor
import java.util.concurrent.TimeUnit

/** Make what does one thing after the other; what comes after its end is dropped. */
internal fun oneThread() = ThreadPoolExecutor(
    1, 1, 0, TimeUnit.SECONDS, LinkedBlockingQueue(), ThreadPoolExecutor.DiscardPolicy(),
)
