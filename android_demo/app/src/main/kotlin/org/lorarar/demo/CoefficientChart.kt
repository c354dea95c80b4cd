package org.lorarar.demo

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.util.AttributeSet
import android.view.View
import org.lorarar.merger.ChartBars
import org.lorarar.merger.LayerMean

/** Two bars a layer: the mean content and style coefficient over its columns. */
class CoefficientChart(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    private var bars = ChartBars(emptyList())
    private val content = paint(R.color.content, Paint.Style.FILL)
    private val style = paint(R.color.style, Paint.Style.STROKE)
    private val axis = paint(R.color.axis, Paint.Style.STROKE)

    fun show(layers: List<LayerMean>) {
        bars = ChartBars(layers)
        contentDescription = if (layers.isEmpty()) {
            context.getString(R.string.chart_empty)
        } else {
            val (content, style) = bars.contentRange to bars.styleRange
            context.getString(
                R.string.chart_described, layers.size, content.first, content.second, style.first, style.second,
            )
        }
        invalidate()
    }

    override fun onDraw(canvas: Canvas) {
        super.onDraw(canvas)
        val zero = bars.height(0f, height)
        canvas.drawLine(0f, zero, width.toFloat(), zero, axis)
        bars.place(width, height).forEach { bar ->
            canvas.drawRect(bar.left, bar.top, bar.right, bar.bottom, if (bar.isContent) content else style)
        }
    }

    private fun paint(color: Int, kind: Paint.Style) = Paint(Paint.ANTI_ALIAS_FLAG).also {
        it.color = context.getColor(color)
        it.style = kind
        it.strokeWidth = STROKE_DP * resources.displayMetrics.density
    }

    private companion object {
        const val STROKE_DP = 1f
    }
}
