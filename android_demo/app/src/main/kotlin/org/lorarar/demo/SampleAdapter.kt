package org.lorarar.demo

import android.app.Activity
import android.graphics.BitmapFactory
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.ImageView
import android.widget.TextView
import org.lorarar.merger.Sample

/** Samples as rows with a picture and a name, after a row for none. */
class SampleAdapter(private val activity: Activity) : BaseAdapter() {
    var samples: List<Sample?> = emptyList()
        private set

    fun show(all: List<Sample>) {
        if (listOf(null) + all == samples) return
        samples = listOf(null) + all
        notifyDataSetChanged()
    }

    override fun getCount(): Int = samples.size

    override fun getItem(position: Int): Any? = samples[position]

    override fun getItemId(position: Int): Long = position.toLong()

    override fun getView(position: Int, convertView: View?, parent: ViewGroup?): View {
        val row = convertView ?: activity.layoutInflater.inflate(R.layout.sample, parent, false)
        val sample = samples[position]
        row.findViewById<TextView>(R.id.sample_name).text = sample?.name ?: activity.getString(R.string.no_lora)
        val picture = row.findViewById<ImageView>(R.id.sample_picture)
        picture.setImageBitmap(sample?.picture?.let { BitmapFactory.decodeFile(it.path) })
        return row
    }

    override fun getDropDownView(position: Int, convertView: View?, parent: ViewGroup?): View =
        getView(position, convertView, parent)
}
