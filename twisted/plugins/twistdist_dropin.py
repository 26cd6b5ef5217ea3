from twisted.application.service import ServiceMaker

scheduler = ServiceMaker("twistdist scheduler", "twistdist.tap.scheduler", "A twistdist scheduler", "twistdist-scheduler")
worker = ServiceMaker("twistdist worker", "twistdist.tap.worker", "A twistdist worker", "twistdist-worker")
