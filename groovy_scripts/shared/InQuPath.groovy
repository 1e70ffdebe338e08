/*
 * What the scripts of the menu "PathSegDiff" do in QuPath 0.5, 0.6 and 0.7: the open image and the
 * project, objects in and out, and, only where there is a window, dialogs and progress.
 */

import java.util.zip.GZIPInputStream
import qupath.lib.common.ColorTools
import qupath.lib.common.GeneralTools
import qupath.lib.images.servers.ImageServerBuilder
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import qupath.lib.scripting.QP

/** One run of one script. */
class InQuPath {

    static final String TITLE = 'PathSegDiff'
    static final String EXPORTED = 'regions.geojson'

    private final Script script
    private final PathSegDiff server
    private final Object gui

    InQuPath(Script script, File home) {
        this.script = script
        this.server = new PathSegDiff(home, { say(it.toString()) })
        this.gui = Window.gui()
    }

    /** Do a task; what goes wrong becomes one sentence, in a dialog if somebody looks on. */
    void run(Closure task) {
        try {
            task()
        } catch (PathSegDiff.Cancelled cancelled) {
            say(cancelled.message)
        } catch (PathSegDiff.Trouble trouble) {
            complain(trouble.message)
        } catch (InterruptedException stopped) {
            say('stopped; nothing was changed')
        } catch (Exception | LinkageError bug) {
            String where = bug.stackTrace.find { it.fileName?.endsWith('.groovy') } ?: 'unknown'
            complain("${bug.class.simpleName}: ${bug.message} (unexpected, at $where; please report it)")
        }
    }

    // ---- tasks --------------------------------------------------------------------------------

    /** Segment the selected areas; without a window, where nothing can be selected, all areas. */
    void segmentSelection(Map settings) {
        Object data = openImage()
        List areas = areasOf(data.hierarchy.annotationObjects)
        if (isWatched(data)) {
            areas = areasOf(QP.selectedObjects)
            if (!areas) {
                if (!ask('No area annotation is selected. Segment the whole tissue instead?')) {
                    throw new PathSegDiff.Cancelled('nothing was selected, and nothing was changed')
                }
                areas = null
            }
        } else if (areas) {
            say("nothing is selected without a window: all ${areas.size()} area annotations are taken")
        } else {
            throw new PathSegDiff.Trouble("${nameOf(data)} has no area annotation; draw one, or run" +
                ' "Segment tissue"')
        }
        segment(data, areas, settings)
    }

    void segmentTissue(Map settings) { segment(openImage(), null, settings) }

    private void segment(Object data, List areas, Map settings) {
        Map options = [regions: areas == null ? 'tissue' : 'annotations']
        if (settings.smallestObject != null) {
            options.minObjectUm2 = settings.smallestObject
        }
        Map request = [kind: 'segment', image: describe(data), model: settings.model, options: options,
                       regions: areas == null ? null : collectionOf(areas)]
        if (settings.heads) {
            request.heads = settings.heads
        }
        server.connect()
        Map job = finish(submit(request), nameOf(data))
        Map found = server.classAreas(job.id as String)
        List rows = PathSegDiff.rowsOf(found)
        List objects = server.detections(job.id as String).withCloseable { PathIO.readObjectsFromGeoJSON(it) }
        if (gui != null && isWatched(data) && !Window.shows(gui, data)) {
            throw new PathSegDiff.Trouble("${nameOf(data)} is not open any more, so that its" +
                " ${PathSegDiff.counted(objects.size(), 'object')} did not come in; open it and run this again")
        }
        Map anew = [heads: found.heads.collect { PathSegDiff.Keys.head(it) } as Set,
                    regions: found.regionIds.collect { PathSegDiff.Keys.region(it) } as Set]
        replace(data.hierarchy, objects, anew, rows, server.models())
        know(classesOf(job, rows))
        job.warnings?.each { say(it) }
        say("${PathSegDiff.counted(objects.size(), 'object')} in ${nameOf(data)}")
        PathSegDiff.tableOf(found.rows).each { script.println(it) }
    }

    /** Train a head from the classified annotations of the project, or of the open image. */
    void train(Map settings) {
        if (!isLastOfBatch()) {
            return
        }
        List samples = samples()
        if (!samples) {
            throw new PathSegDiff.Trouble('there is no annotation with a class to learn from; draw some' +
                ' and give each a class')
        }
        String head = settings.head
        if (isWatched(QP.currentImageData)) {
            String images = PathSegDiff.counted(samples.size(), 'image')
            head = Window.input(TITLE, "Name of the head that learns from $images", head)
            if (!head?.trim()) {
                throw new PathSegDiff.Cancelled('no name was given, and nothing was trained')
            }
        }
        Map options = [base: settings.base]
        if (settings.steps != null) {
            options.steps = settings.steps
        }
        server.connect()
        Map job = finish(submit([kind: 'train', samples: samples, model: settings.model,
                                 heads: [head.trim()], options: options]), "head ${head.trim()}")
        Map made = job.result
        String dice = made.meanDice == null ? '' :
            ", mean Dice ${PathSegDiff.fixed(made.meanDice, 2)} on" +
            " ${PathSegDiff.counted(made.heldOutImages, 'field')} held out"
        say("model ${made.model} has learned the head ${made.head}" +
            " from ${PathSegDiff.counted(made.trainImages, 'field')} of view$dice")
        say("to use it, set model = '${made.model}' in the scripts that segment")
        job.warnings?.each { say(it) }
    }

    private List samples() {
        entriesOrImage().collect { place ->
            List classed = place.hierarchy().annotationObjects.findAll { trains(it) } as List
            if (!classed) {
                return null
            }
            Object data = place.data()
            try {
                [image: describe(data), regions: collectionOf(classed)]
            } finally {
                place.close(data)
            }
        }.findAll()
    }

    private static boolean trains(Object annotation) {
        String name = annotation.pathClass
        name && !name.split(':').any { it.trim().endsWith('*') }
    }

    /** Write the class areas of all images of the project as a table. */
    void exportClassAreas(String path) {
        if (!isLastOfBatch()) {
            return
        }
        File folder = projectFolder()
        List models = knownModels()
        List<List<String>> rows = entriesOrImage().collectMany {
            ClassAreas.rowsOf(it.name, it.id, it.hierarchy(), models)
        }
        if (!rows) {
            throw new PathSegDiff.Trouble('no image of the project has objects of ours; segment some first')
        }
        File file = new File(path).absolute ? new File(path) : new File(folder, path)
        PathSegDiff.writeTable(file, [PathSegDiff.COLUMNS] + rows)
        say("${PathSegDiff.counted(rows.size(), 'row')} written to $file")
    }

    /** Return the server's models; none if there is no way to them, for they only tell the heads of empty classes. */
    private List knownModels() {
        try {
            server.connect()
            return server.models()
        } catch (PathSegDiff.Trouble trouble) {
            say("classes without objects are listed without their head, for ${trouble.message}")
            return []
        }
    }

    /** Write the annotations of all images of the project to where a run without QuPath reads them. */
    void exportRegions() {
        if (!isLastOfBatch()) {
            return
        }
        File folder = projectFolder()
        int count = 0
        entriesOrImage().each { place ->
            Collection annotations = place.hierarchy().annotationObjects
            File file = new File(folder, "pathsegdiff/${place.id}/$EXPORTED")
            if (annotations || file.exists()) {
                PathSegDiff.writeWhole(file, PathSegDiff.Json.write(collectionOf(annotations)))
                say("${place.name}: ${annotations.size()} annotations to $file")
                count++
            }
        }
        if (!count) {
            throw new PathSegDiff.Trouble('no image of the project has an annotation; draw some first')
        }
        say('now run, where QuPath is not: qupath-pathsegdiff run project.qpproj --backend portable')
    }

    /** Put what a run without QuPath found in this image into it. */
    void importResults() {
        Object data = openImage()
        Object entry = entryOf(data)
        if (entry == null) {
            throw new PathSegDiff.Trouble("${nameOf(data)} is in no project; add it to the one that was run")
        }
        File folder = new File(projectFolder(), "pathsegdiff/${entry.ID}")
        File file = ['detections.geojson', 'detections.geojson.gz'].collect { new File(folder, it) }.find { it.file }
        if (file == null) {
            throw new PathSegDiff.Trouble("there are no results in $folder; run \"Export regions\", then" +
                ' "qupath-pathsegdiff run" on the project, and copy its folder pathsegdiff back')
        }
        List objects = readObjects(file)
        Map result = resultBeside(file)
        Set heads = objects.collect { PathSegDiff.Keys.headOf(it.ID) } as Set
        Set regions = (objects.collect { PathSegDiff.Keys.regionOf(it.ID) } +
            PathSegDiff.AUTOMATIC.collect { PathSegDiff.Keys.region(it) }) as Set
        result.rows.each {
            heads << PathSegDiff.Keys.head(it.head)
            regions << PathSegDiff.Keys.region(it.region_id)
        }
        replace(data.hierarchy, objects, [heads: heads, regions: regions], result.rows, [])
        know(objects*.pathClass.unique().findAll())
        say("${PathSegDiff.counted(objects.size(), 'object')} of $file put into ${nameOf(data)}")
    }

    private static List readObjects(File file) {
        try {
            InputStream stream = file.newInputStream()
            InputStream plain = file.name.endsWith('.gz') ? new GZIPInputStream(stream) : stream
            return plain.withCloseable {
                PathIO.readObjectsFromGeoJSON(it).findAll { PathSegDiff.Keys.isOurs(it.ID) }
            }
        } catch (IOException | RuntimeException error) {
            throw new PathSegDiff.Trouble("$file cannot be read (${error.message}); copy it again")
        }
    }

    /** Return what is stored beside detections; without rows where there is nothing. */
    private static Map resultBeside(File file) {
        File result = new File(file.parentFile, 'result.json')
        try {
            Object read = result.file ? PathSegDiff.Json.read(result.getText('UTF-8')) : null
            return read instanceof Map && read.rows instanceof List ? read : [rows: []]
        } catch (IOException | IllegalArgumentException error) {
            throw new PathSegDiff.Trouble("$result cannot be read (${error.message}); copy it again")
        }
    }

    /** Cancel all jobs that wait or run; a server that is not there is not started. */
    void cancelJobs() {
        if (!isLastOfBatch()) {
            return
        }
        if (server.running() == null) {
            tell('no server runs, so that there is nothing to cancel')
            return
        }
        List active = server.jobs().findAll { it.state in ['queued', 'running'] }
        active.each { server.cancel(it.id) }
        tell(active ? "${PathSegDiff.counted(active.size(), 'job')} cancelled" : 'there is no job to cancel')
    }

    /** Say what the server is and has; offer its page. */
    void checkConnection() {
        if (!isLastOfBatch()) {
            return
        }
        Map health = server.connect()
        List<String> lines = ["server ${health.version} " +
            (health.ready ? "on ${health.device}, ready" : 'is still starting: jobs can be handed in')]
        server.models().each { model ->
            lines << "model ${model.name} ${model.version ?: ''}${model['default'] ? ' (the default)' : ''}".toString()
            model.heads.each { head ->
                String asked = head.onRequest ? ', only when asked for' : ''
                lines << "  head ${head.name}$asked: ${head.classes*.name.join(', ')}".toString()
            }
        }
        lines.each { say(it) }
        if (isWatched(QP.currentImageData) &&
            ask("${lines.join('\n')}\n\nOpen the server's page in the browser?")) {
            String url = server.page()
            Window.browse(gui, url)
            // QuPath does not tell whether there is a browser; here the address can be copied.
            Window.input(TITLE, 'If no browser opens, copy this address, which is good for ten minutes:', url)
        }
    }

    // ---- jobs ---------------------------------------------------------------------------------

    /** Hand in a job; images that the server may not read yet, the user can let it. */
    private Map submit(Map request) {
        if (QP.project?.path != null) {
            server.open(projectFolder().canonicalPath)
        }
        try {
            return server.submit(request)
        } catch (PathSegDiff.Closed closed) {
            if (!isWatched(QP.currentImageData)) {
                throw closed
            }
            if (!ask("PathSegDiff may not read the images in this folder yet. Let it?\n\n${closed.folder}")) {
                throw new PathSegDiff.Cancelled('the folder was not opened to PathSegDiff; nothing was changed')
            }
            server.open(closed.folder)
        }
        submit(request)
    }

    /** Wait for a job with progress in the log and, if somebody looks on, in a window. */
    private Map finish(Map job, String what) {
        Window window = isWatched(QP.currentImageData) ? Window.open(gui, "$TITLE: $what") : new Window()
        String said = null
        try {
            return server.await(job.id as String, { Map now ->
                String text = PathSegDiff.progressOf(now)
                window.show(text, now.tilesTotal ? now.tilesDone / (double) now.tilesTotal : -1d)
                Object tenths = now.tilesTotal ? (10 * now.tilesDone).intdiv(now.tilesTotal) : ''
                String brief = "${now.state} ${now.stage} $tenths"
                if (brief != said) {
                    said = brief
                    say("$what: $text")
                }
            }, { window.isCancelled() })
        } finally {
            window.close()
        }
    }

    // ---- the image and the project ------------------------------------------------------------

    private static Object openImage() {
        Object data = QP.currentImageData
        if (data == null) {
            throw new PathSegDiff.Trouble("no image is open; open one${orByCommand()}")
        }
        data
    }

    private static String orByCommand() { Window.gui() == null ? ", or give one to QuPath's command" : '' }

    private static Object entryOf(Object data) { QP.project?.getEntry(data) }

    private static String nameOf(Object data) { entryOf(data)?.imageName ?: data.server.metadata.name }

    private static File projectFolder() {
        Object path = QP.project?.path
        if (path == null) {
            throw new PathSegDiff.Trouble("no project is open; open one${orByCommand()}")
        }
        path.toFile().parentFile
    }

    /** Return what the server is told of an image. */
    private static Map describe(Object data) {
        Object image = data.server
        Object pixel = image.pixelCalibration
        List uris = image.URIs as List
        String builder = GsonTools.getInstance().toJson(image.builder, ImageServerBuilder.ServerBuilder)
        Object entry = entryOf(data)
        Map told = [
            uri: uris ? uris[0].toString() : '',
            name: nameOf(data),
            width: image.width,
            height: image.height,
            pixelSizeMicrons: pixel.hasPixelSizeMicrons() ?
                [w: pixel.pixelWidthMicrons, h: pixel.pixelHeightMicrons] : null,
            serverBuilder: PathSegDiff.Json.read(builder),
            imageType: data.imageType?.name(),
        ]
        if (entry != null) {
            told.entryID = entry.ID
            told.project = QP.project.path?.toString()
        }
        told.findAll { key, value -> value != null || key == 'pixelSizeMicrons' }
    }

    /**
     * Return the images of the project, or the open one where there is none. Each has a name, an
     * id, its hierarchy and, if need be, its data; the open image is as it is on screen.
     */
    private List entriesOrImage() {
        Object open = QP.currentImageData
        List entries = QP.project == null ? [] : QP.project.imageList
        Object current = open == null ? null : entryOf(open)
        if (!entries) {
            return [placeOf(null, openImage())]
        }
        entries.collect { placeOf(it, it.is(current) || it.ID == current?.ID ? open : null) }
    }

    private static Map placeOf(Object entry, Object open) {
        [name: entry?.imageName ?: nameOf(open),
         id: entry?.ID,
         hierarchy: { open != null ? open.hierarchy : entry.readHierarchy() },
         data: { open ?: entry.readImageData() },
         close: { data -> if (open == null) { data.server.close() } }]
    }

    // ---- objects ------------------------------------------------------------------------------

    private static List areasOf(Collection objects) {
        objects.findAll { it.isAnnotation() && it.getROI()?.isArea() } as List  // selected ones are a set
    }

    /** Return annotations as QuPath exports them, without what is nested in them or measured. */
    private Map collectionOf(Collection annotations) {
        List features = annotations.collect { annotation ->
            try {
                Map feature = PathSegDiff.Json.read(GsonTools.getInstance().toJson(annotation)) as Map
                ['childObjects', 'measurements', 'metadata'].each { feature.properties?.remove(it) }
                feature
            } catch (RuntimeException error) {
                // QuPath 0.6 and newer throw on some invalid shapes.
                say("annotation \"${annotation.displayedName}\" was left out: its shape is broken")
                null
            }
        }.findAll()
        [type: 'FeatureCollection', features: features]
    }

    /**
     * Put objects of ours below the annotations of their regions, else at the root, in place of
     * earlier ones, and give annotations the measurements that these rows tell of. One change to
     * undo. anew: keys of the heads and regions done. models: the server's.
     */
    private void replace(Object hierarchy, List objects, Map anew, List rows, List models) {
        Collection annotations = hierarchy.annotationObjects
        Map rowsById = rows.groupBy { it.region_id }
        // Those of this job last, and so first, should two have one key.
        Map byKey = annotations.toSorted { rowsById.containsKey(it.ID.toString()) }
            .collectEntries { [(PathSegDiff.Keys.region(it.ID.toString())): it] }
        Set present = byKey.keySet() + PathSegDiff.AUTOMATIC.collect { PathSegDiff.Keys.region(it) }
        List ours = hierarchy.detectionObjects.findAll { PathSegDiff.Keys.isOurs(it.ID) } as List
        Set known = ours*.name as Set
        List going = ours.findAll { PathSegDiff.Keys.isReplaced(it.ID, anew.heads, anew.regions, present) }
        hierarchy.selectionModel.deselectObjects(going)
        remove(going)
        Map children = objects.groupBy { byKey[PathSegDiff.Keys.regionOf(it.ID)] ?: hierarchy.rootObject }
        children.each { parent, items -> parent.addChildObjects(items) }
        Map before = ours.groupBy { PathSegDiff.Keys.regionOf(it.ID) }
        List measured = annotations.findAll { rowsById.containsKey(it.ID.toString()) } as List
        measured.each {
            String id = it.ID
            Set made = before[PathSegDiff.Keys.region(id)].collect { [it.name, it.pathClass?.toString()] } as Set
            measure(it, PathSegDiff.measured(it.measurements, rowsById[id], made, models, known))
        }
        hierarchy.fireHierarchyChangedEvent(hierarchy)
        // In QuPath 0.5 only an event that names objects becomes a step to undo; from 0.6 on each does,
        // and so does the one with which QuPath ends every script.
        if (GeneralTools.version?.startsWith('0.5.')) {
            hierarchy.fireObjectMeasurementsChangedEvent(hierarchy, measured ?: [hierarchy.rootObject])
        }
    }

    /** Take objects out; what was nested in them moves up. */
    private static void remove(Collection objects) {
        Map going = new IdentityHashMap()
        objects.each { going[it] = it.parent }
        List orphans = objects.collectMany { item ->
            item.childObjects.findAll { !going.containsKey(it) }.collect { [it, item] }
        }
        objects.groupBy { going[it] }.each { parent, items -> parent.removeChildObjects(items) }
        orphans.each { child, item ->
            Object parent = item
            while (going.containsKey(parent)) {
                parent = going[parent]
            }
            parent.addChildObject(child)
        }
    }

    /** Add classes to the project's list, as `run` does; those it has keep their colours. */
    private void know(Collection classes) {
        if (gui != null) {
            Window.know(gui, classes)
        } else if (QP.project != null) {
            List known = QP.project.pathClasses
            List fresh = classes.findAll { !known.contains(it) }
            if (fresh) {
                // groovylint-disable-next-line UnnecessarySetter
                QP.project.setPathClasses(known + fresh)
            }
        }
    }

    /** Return the classes that a job's heads have objects of, found or not. */
    private static List classesOf(Map job, List rows) {
        Set shown = rows.findAll { !it.silent }.collect { [it.head, it.class_name] }
        job.result.classes.findAll { [it.head, it['class']] in shown }.collect {
            PathClass.fromString(it['class'] as String, it.color ? ColorTools.packRGB(*it.color*.intValue()) : null)
        }.unique()
    }

    private static void measure(Object annotation, Map values) {
        Map measured = annotation.measurements
        new ArrayList(measured.keySet()).each {
            if (it.startsWith(PathSegDiff.PREFIX) && !values.containsKey(it)) {
                measured.remove(it)
            }
        }
        values.each { name, value -> measured.put(name.toString(), value as double) }
    }

    // ---- telling ------------------------------------------------------------------------------

    private void say(String sentence) { script.println("$TITLE: $sentence") }

    /** Say, and show it if somebody looks on. */
    private void tell(String sentence) {
        say(sentence)
        if (isWatched(QP.currentImageData)) {
            Window.message(TITLE, sentence)
        }
    }

    private static boolean ask(String question) { Window.confirm(TITLE, question) }

    private void complain(String sentence) {
        PrintWriter errors = new PrintWriter(errorWriter(), true)
        errors.println("$TITLE: error: $sentence")
        if (isWatched(QP.currentImageData)) {
            Window.error(TITLE, sentence)
        } else if (Thread.currentThread().stackTrace.any { it.className == 'qupath.ScriptCommand' }) {
            ExitStatus.fail()
        }
    }

    private Writer errorWriter() {
        try {
            return script.binding.getVariable('context').errorWriter
        } catch (MissingPropertyException ignored) {  // not run by QuPath
            return new OutputStreamWriter(System.err)
        }
    }

    /** Return whether there is a window with this image: no batch, and not without a window. */
    private boolean isWatched(Object data) {
        if (gui == null || batch('batchSize', 1) > 1) {
            return false
        }
        watched = watched ?: gui.imageData.is(data)
        watched
    }

    private boolean watched

    private boolean isLastOfBatch() { batch('batchLast', true) }

    private Object batch(String name, Object otherwise) {
        String variable = "qupath.script.$name"
        script.binding.hasVariable(variable) ? script.binding.getVariable(variable) : otherwise
    }

    /**
     * Ends QuPath's command with status 1. It would itself do so only for an exception, with a stack
     * trace, and save nothing of the image.
     */
    static class ExitStatus {

        private static final String FAILED = 'qupath.pathsegdiff.failed'

        static void fail() {
            synchronized (System.properties) {
                if (System.getProperty(FAILED) == null) {
                    System.setProperty(FAILED, 'true')
                    Runtime.runtime.addShutdownHook(new Thread({
                        Thread.sleep(300)  // for the hooks of others
                        Runtime.runtime.halt(1)
                    } as Runnable))
                }
            }
        }
    }

    /** The class areas that an image's own objects tell of. */
    static class ClassAreas {

        /**
         * Return rows as the table of `run` has them, as far as objects and measurements tell: tissue
         * and slide without percent, and without the classes that make no objects there.
         */
        static List<List<String>> rowsOf(String image, String id, Object hierarchy, List models) {
            List ours = hierarchy.detectionObjects.findAll { PathSegDiff.Keys.isOurs(it.ID) } as List
            Map byRegion = ours.groupBy { PathSegDiff.Keys.regionOf(it.ID) }
            List<List<String>> rows = hierarchy.annotationObjects.withIndex(1).collectMany { annotation, number ->
                String region = annotation.ID
                List inside = byRegion[PathSegDiff.Keys.region(region)] ?: []
                String name = annotation.name ?: annotation.pathClass?.toString() ?: "Annotation $number"
                measured(annotation, inside, models, ours*.name as Set).collect { [image, id, name, region] + it }
            }
            rows + PathSegDiff.AUTOMATIC.collectMany { region ->
                List inside = byRegion[PathSegDiff.Keys.region(region)] ?: []
                summed(inside).collect { [image, id, region.capitalize(), region] + it }
            }
        }

        private static List measured(Object annotation, List inside, List models, Set known) {
            Collection pairs = inside.collect { [it.name, it.pathClass?.toString()] }
            PathSegDiff.valuesOf(annotation.measurements, pairs, models, known).collect { head, kind, values ->
                Number percent = values[' %']
                [head ?: '', kind, PathSegDiff.fixed(values[PathSegDiff.AREA] ?: 0, 3),
                 percent == null ? '' : PathSegDiff.fixed(percent, 4), pairs.count([head, kind]).toString()]
            }
        }

        private static List summed(List inside) {
            inside.groupBy { [it.name, it.pathClass?.toString()] }.collect { key, items ->
                double area = items.sum { it.measurements['Area \u00b5m^2'] ?: 0 }
                [key[0], key[1], PathSegDiff.fixed(area, 3), '', items.size().toString()]
            }
        }
    }

    /** QuPath's window, reached only by name: without it nothing of this is touched. */
    static class Window {

        private volatile boolean cancelled
        private Object stage, label, bar

        static Object gui() {
            try {
                return named('qupath.lib.gui.QuPathGUI').getMethod('getInstance').invoke(null)
            } catch (Exception | LinkageError ignored) {
                return null
            }
        }

        private static Class named(String name) { Class.forName(name, true, InQuPath.classLoader) }

        private static Object onFx(Closure call) {
            named('qupath.fx.utils.FXUtils').callOnApplicationThread(call as java.util.concurrent.Callable)
        }

        private static Object dialogs() { named('qupath.fx.dialogs.Dialogs') }

        static void error(String title, String text) { onFx { dialogs().showErrorMessage(title, text) } }

        static void message(String title, String text) { onFx { dialogs().showPlainMessage(title, text) } }

        static boolean confirm(String title, String text) { onFx { dialogs().showConfirmDialog(title, text) } }

        static String input(String title, String text, String first) {
            onFx { dialogs().showInputDialog(title, text, first) }
        }

        static boolean shows(Object gui, Object data) {
            gui.imageData.is(data) || gui.allViewers.any { it.imageData.is(data) }
        }

        /** Add classes to the list that QuPath's window shows, and which it keeps in the project. */
        static void know(Object gui, Collection classes) {
            onFx {
                List known = gui.availablePathClasses
                known.addAll(classes.findAll { !known.contains(it) })
            }
        }

        static void browse(Object gui, String url) { onFx { gui.class.openInBrowser(url) } }

        /** Return a small window with a bar and a button; where it cannot be, one that is not seen. */
        static Window open(Object gui, String title) {
            Window window = new Window()
            try {
                onFx { window.layOut(gui, title) }
            } catch (Exception | LinkageError ignored) {
                window.stage = null  // the log tells of progress, too
            }
            window
        }

        void layOut(Object gui, String title) {
            label = named('javafx.scene.control.Label').getConstructor(String).newInstance('waiting')
            bar = named('javafx.scene.control.ProgressBar').getConstructor().newInstance()
            bar.prefWidth = 380d
            Object button = named('javafx.scene.control.Button').getConstructor(String).newInstance('Cancel')
            button.onAction = { cancelled = true; button.disable = true }.asType(named('javafx.event.EventHandler'))
            Object box = named('javafx.scene.layout.VBox').getConstructor(double).newInstance(10d)
            box.padding = named('javafx.geometry.Insets').getConstructor(double).newInstance(14d)
            box.children.addAll([label, bar, button])
            stage = named('javafx.stage.Stage').getConstructor().newInstance()
            stage.initOwner(gui.stage)
            stage.title = title
            stage.scene = named('javafx.scene.Scene')
                .getConstructor(named('javafx.scene.Parent')).newInstance(box)
            stage.onCloseRequest = { cancelled = true }.asType(named('javafx.event.EventHandler'))
            stage.show()
        }

        boolean isCancelled() { cancelled }

        /** Show a text and a part of 1 that is done; below 0 for unknown. */
        void show(String text, double part) {
            if (stage != null) {
                later { label.text = text; bar.progress = part }
            }
        }

        void close() {
            if (stage != null) {
                later { stage.close() }
            }
        }

        private static void later(Closure call) {
            named('javafx.application.Platform').runLater(call as Runnable)
        }
    }
}
